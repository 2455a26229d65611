"""PFNet in PyTorch: *PointFlow: Flowing Semantics Through Points for Aerial Image Segmentation*.

Li et al., CVPR 2021, arXiv 2103.06564. Read in this order: `pfnet` (the whole), `pointflow` (the paper's
contribution), `layers` (with the encoders); `losses` is the training objective, `fast` computes the same in
less time. Where paper and published checkpoints differ, the checkpoints' arithmetic is what stands here.
"""
