"""Correct a checklist of `pfmap review` as a person would who knows where the buildings are.

python -m examples.play_reviewer REVIEW OBJECTS FOOTPRINTS ELSEWHERE

An object that footprints cover is a building; a building that they do not is what lies around it on the map.
The class of other objects stays: footprints do not say it. Where they cover a part, the outline is wrong, and
the object stays unchecked. ELSEWHERE gets the footprints, and over them what was checked.
"""

import sys

import geopandas as gpd
import pandas as pd

BUILDING = "building"
COVERED, BARE = 0.6, 0.1  # shares of an object from which on, and up to which, its class is clear
AROUND = 2.0  # units of the CRS


def main(review: str, objects: str, footprints: str, elsewhere: str) -> None:
    """Correct the checklist, and say how much was corrected."""
    listed = gpd.read_file(review, layer="objects")
    every = gpd.read_file(objects, layer="objects")
    truth = gpd.read_file(footprints).to_crs(listed.crs)
    share = listed.intersection(truth.union_all()).area / listed.area
    others = every[every["class"] != BUILDING]
    for k in listed.index[(listed["was"] == BUILDING) & (share <= BARE)]:
        near = others.clip(listed.geometry[k].buffer(AROUND))
        around = near.area.groupby(near["class"]).sum()
        listed.loc[k, "class"] = around.idxmax() if len(around) else BUILDING
    listed.loc[share >= COVERED, "class"] = BUILDING
    unclear = (listed["class"] == BUILDING) != (share >= COVERED)
    listed["checked"] = ((share >= COVERED) | (share <= BARE)) & ~unclear
    listed.to_file(review, layer="objects")
    checked = listed[listed["checked"]]
    over = checked[["geometry"]].assign(**{"class": "checked"})
    pd.concat([truth[["class", "geometry"]], over]).to_file(elsewhere)
    changed = (checked["class"] != checked["was"]).sum()
    print(f"looked at {len(listed)} objects, checked {len(checked)}, changed the class of {changed}")


if __name__ == "__main__":
    main(*sys.argv[1:])
