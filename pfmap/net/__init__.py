"""PFNet in PyTorch: *PointFlow: Flowing Semantics Through Points for Aerial Image Segmentation*.

Li et al., CVPR 2021, arXiv 2103.06564. Read in this order: `pfnet` (the whole), `pointflow` (the paper's
contribution), `context`, then the encoders `resnet` and `efficientnet`; `losses` is the training objective.
Where paper and published checkpoints differ, the checkpoints' arithmetic is what stands here.
"""
