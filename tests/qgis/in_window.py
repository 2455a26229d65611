"""What use_toolbox.py has QGIS do in its window: cancel, go on, load layers, chain algorithms, draw."""

import json
import os
import time
import traceback
from pathlib import Path
from urllib.parse import quote

import processing
from processing.gui.Postprocessing import handleAlgorithmResults
from qgis.core import (
    QgsApplication,
    QgsFeatureRequest,
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProcessingModelAlgorithm,
    QgsProcessingModelChildAlgorithm,
    QgsProcessingModelChildParameterSource,
    QgsProcessingModelOutput,
    QgsProject,
    QgsRasterLayer,
    QgsRectangle,
    QgsVectorLayer,
)
from qgis.gui import QgsAttributeDialog
from qgis.PyQt.QtCore import QTimer
from qgis.PyQt.QtWidgets import QApplication
from qgis.utils import iface

SCENE, OUT = os.environ["PFMAP_SCENE"], Path(os.environ["PFMAP_OUT"])
VALUES = {"INPUT": SCENE, "OUTPUT": str(OUT / "canceled"), "MODEL": "landcover", "LOAD": True}
PROBLEMS = []


class Feedback(QgsProcessingFeedback):
    """Cancels once so many percent are done."""

    def __init__(self, cancel_at=1000):
        super().__init__(False)
        self.said, self.percents, self.cancel_at = [], [], cancel_at

    def setProgress(self, percent):  # noqa: N802 - QGIS's own name
        self.percents.append(percent)
        if percent >= self.cancel_at:
            self.cancel()

    def pushInfo(self, text):  # noqa: N802 - QGIS's own name
        self.said.append(text)


def expect(fine, problem):
    if not fine:
        PROBLEMS.append(problem)


def settle(seconds):
    """Let the window draw."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.02)


def cancel_and_go_on():
    """Cancel a run once windows are computed; the same again goes on, and its layers are loaded."""
    QgsProject.instance().addMapLayer(QgsRasterLayer(SCENE, "orthophoto"))
    algorithm = QgsApplication.processingRegistry().createAlgorithmById("pfmap:predict")
    context = QgsProcessingContext()
    context.setProject(QgsProject.instance())
    begun, feedback = time.monotonic(), Feedback(cancel_at=1)
    results, _ = algorithm.run(VALUES, context, feedback)
    expect(not results, f"a canceled run gives {results}")
    expect(any("to go on" in text for text in feedback.said), f"nothing is said of going on: {feedback.said}")
    left = [str(path) for path in (OUT / "canceled").glob("banepa*") if path.is_file()]
    expect(not left, f"files of a canceled run have their final names: {left}")
    print(f"canceled after {time.monotonic() - begun:.0f} s")
    results, fine = algorithm.run(VALUES, context, feedback := Feedback())
    expect(fine and results, "the run does not go on")
    seen = feedback.percents
    expect(len(set(seen)) > 3 and seen == sorted(seen) and seen[-1] == 100, f"progress is {seen}")
    handleAlgorithmResults(algorithm, context, feedback, parameters=VALUES)


def check_layers():
    """What was loaded is in a group, objects above classes, both in their colours."""
    root = QgsProject.instance().layerTreeRoot()
    group = root.findGroup("banepa")
    nodes = group.findLayers() if group else []
    names = [node.name() for node in nodes]
    expect(names == ["banepa_objects", "banepa_classes"], f"the layers are {names} in {root.dump()}")
    for node in nodes:
        kind = node.layer().renderer().type()
        expect(kind in ("paletted", "categorizedSymbol"), f"{node.name()} is drawn as {kind}")


def map_tiles():
    """Map a part of a layer of tiles, as people add one in the browser panel."""
    address = quote(os.environ["PFMAP_TILES"] + "/{z}/{x}/{y}.png", safe="")
    layer = QgsRasterLayer(f"type=xyz&url={address}&zmin=0&zmax=20", "tiles", "wms")
    expect(layer.isValid(), "QGIS does not open the tiles")
    algorithm = QgsApplication.processingRegistry().createAlgorithmById("pfmap:predict")
    context, feedback = QgsProcessingContext(), Feedback()
    given = {
        "INPUT": layer,
        "OUTPUT": str(OUT / "of_tiles"),
        "MODEL": "landcover",
        "GSD": 0.15,
        "LOAD": False,
    }
    extent = QgsRectangle(9520231, 3202640, 9520331, 3202740)
    results, fine = algorithm.run({**given, "EXTENT": extent}, context, feedback)
    expect(fine and "OBJECTS" in results, f"tiles are not mapped: {results}, {feedback.said}")


def use_in_a_model():
    """Chain two algorithms as the Model Designer does: what one makes is what the next takes."""
    model = QgsProcessingModelAlgorithm()
    first = QgsProcessingModelChildAlgorithm("pfmap:vectorize")
    first.setChildId("first")
    given = {
        "INPUT": f"{VALUES['OUTPUT']}/banepa_classes.tif",
        "OUTPUT": str(OUT / "model_outputs"),
        "LOAD": False,
    }
    for name, value in given.items():
        first.addParameterSources(name, [QgsProcessingModelChildParameterSource.fromStaticValue(value)])
    second = QgsProcessingModelChildAlgorithm("native:centroids")
    second.setChildId("second")
    second.addParameterSources(
        "INPUT", [QgsProcessingModelChildParameterSource.fromChildOutput("first", "OBJECTS")]
    )
    points = QgsProcessingModelOutput("points")
    points.setChildId("second")
    points.setChildOutputName("OUTPUT")
    second.setModelOutputs({"points": points})
    model.addChildAlgorithm(first)
    model.addChildAlgorithm(second)
    model.updateDestinationParameters()
    context = QgsProcessingContext()
    context.setProject(QgsProject.instance())
    feedback = Feedback()
    results, fine = model.run({"second:points": str(OUT / "points.gpkg")}, context, feedback)
    expect(fine, f"the model does not run: {feedback.said}")
    made = QgsVectorLayer(str(OUT / "points.gpkg"), "points")
    expect(made.isValid() and made.featureCount() > 500, f"the model gives {results}")


def correct():
    """List objects worth a look, correct the first in the layer's own form, which is drawn, and save it."""
    algorithm = QgsApplication.processingRegistry().createAlgorithmById("pfmap:review")
    given = {"INPUT": f"{VALUES['OUTPUT']}/banepa_objects.gpkg|layername=objects", "COUNT": 40}
    context, feedback = QgsProcessingContext(), Feedback()
    context.setProject(QgsProject.instance())
    _, fine = algorithm.run({**given, "OUTPUT": str(OUT / "mine.gpkg"), "LOAD": True}, context, feedback)
    expect(fine, f"no list: {feedback.said}")
    handleAlgorithmResults(algorithm, context, feedback, parameters=given)
    found = [layer for layer in QgsProject.instance().mapLayers().values() if "mine.gpkg" in layer.source()]
    expect(len(found) == 1, f"{len(found)} lists are loaded")
    layer = found[0]
    fields = layer.fields()
    kinds = {
        name: layer.editorWidgetSetup(fields.indexOf(name)).type() for name in ("fid", "class", "checked")
    }
    expect(kinds == {"fid": "Hidden", "class": "ValueMap", "checked": "CheckBox"}, f"the form has {kinds}")
    free = [name for name in fields.names() if not layer.editFormConfig().readOnly(fields.indexOf(name))]
    expect(free == ["fid", "class", "checked"], f"people can change {free}")
    layer.startEditing()
    order = QgsFeatureRequest().addOrderBy("rank")
    first = next(layer.getFeatures(order))
    form = QgsAttributeDialog(layer, first, False)
    form.show()
    settle(1)
    form.grab().save(str(OUT / "form.png"))
    form.close()
    layer.changeAttributeValue(first.id(), fields.indexOf("checked"), True)
    expect(layer.commitChanges(), f"the correction is not saved: {layer.commitErrors()}")
    ticked = [one["rank"] for one in layer.getFeatures() if one["checked"]]
    expect(ticked == [1], f"checked are {ticked}")
    table = iface.showAttributeTable(layer)
    settle(2)
    table.grab().save(str(OUT / "table.png"))
    table.close()
    for name in ("banepa_objects", "banepa_classes"):
        for below in QgsProject.instance().mapLayersByName(name):
            QgsProject.instance().layerTreeRoot().findLayer(below.id()).setItemVisibilityChecked(False)
    layer.removeSelection()
    iface.mapCanvas().setExtent(first.geometry().boundingBox().buffered(40))
    settle(3)
    iface.mapCanvas().grab().save(str(OUT / "review.png"))


def draw():
    """Draw the window with what was loaded, and two dialogs."""
    toolbox = iface.mainWindow().findChild(object, "ProcessingToolbox")
    if toolbox is not None:
        toolbox.setUserVisible(True)
        toolbox.searchBox.setText("pfmap")
    iface.mapCanvas().zoomToFullExtent()
    settle(5)
    iface.mainWindow().grab().save(str(OUT / "window.png"))
    for name in ("predict", "train"):
        dialog = processing.createAlgorithmDialog(f"pfmap:{name}", {"INPUT": SCENE})
        dialog.resize(900, 760)
        dialog.show()
        settle(2)
        dialog.grab().save(str(OUT / f"dialog_{name}.png"))
        dialog.close()
    print(f"pictures: {OUT}/window.png, dialog_predict.png, dialog_train.png")


def main():
    try:
        for step in (cancel_and_go_on, check_layers, map_tiles, use_in_a_model, draw, correct):
            step()
    except Exception:
        PROBLEMS.append(traceback.format_exc())
    (OUT / "window.json").write_text(json.dumps(PROBLEMS))
    os._exit(0)  # without questions about the project


QTimer.singleShot(2000, main)
