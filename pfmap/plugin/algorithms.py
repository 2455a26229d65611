"""The algorithms: their parameters, the command that each runs, and what comes of it."""

import os

from qgis.core import (
    QgsProcessing,
    QgsProcessingOutputFile,
    QgsProcessingOutputHtml,
    QgsProcessingOutputNumber,
    QgsProcessingOutputRasterLayer,
    QgsProcessingOutputVectorLayer,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterEnum,
    QgsProcessingParameterExtent,
    QgsProcessingParameterField,
    QgsProcessingParameterFile,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterFolderDestination,
    QgsProcessingParameterMapLayer,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterVectorLayer,
)

from .algorithm import FORMATS, Algorithm, Quick
from .program import Place


class _Shaping(Algorithm):
    """What polygons are made, and how."""

    FLAGS = {
        "CLASSES": "--classes",
        "MIN_AREA": "--min-area",
        "SIMPLIFY": "--simplify",
        "SQUARE": "--regularize",
    }

    def add_shape(self):
        """Add the parameters of polygons."""
        self.add_text("CLASSES", "Classes that become polygons", "Names with commas between; all where empty")
        about = "Such as building: right angles, straight walls"
        self.add_text("SQUARE", "Classes whose objects are squared", about)
        about = "Smaller regions become part of their neighbour"
        self.add_number("MIN_AREA", "Least area of an object, m2", about)
        about = "How far outlines may be moved to have fewer corners; 1.25 pixels where empty"
        self.add_number("SIMPLIFY", "Simplify outlines, metres", about, advanced=True)
        formats = QgsProcessingParameterEnum(
            "FORMAT", "Format of the polygons", FORMATS, defaultValue="gpkg", usesStaticStrings=True
        )
        self.add(formats, advanced=True)

    def shape(self, parameters, context):
        """Return their options."""
        words = ["--format", self.parameterAsEnumString(parameters, "FORMAT", context)]
        return words + self.given(parameters, context, **self.FLAGS)


class _Mapping(_Shaping):
    """What both a layer and a folder are mapped by."""

    FLAGS = {**_Shaping.FLAGS, "GSD": "--gsd", "DEVICE": "--device"}

    def add_mapping(self):
        """Add the parameters of mapping and of polygons."""
        self.add_model()
        self.add_shape()
        about = "Size of a pixel on the ground; from the georeferencing where empty"
        self.add_number("GSD", "Ground sampling distance, metres", about, advanced=True)
        self.add_text("DEVICE", "Device", "auto, cpu, cuda, cuda:0 or mps", advanced=True)
        self.add_folder()
        self.addOutput(QgsProcessingOutputRasterLayer("CLASSES_RASTER", "Class raster"))
        self.addOutput(QgsProcessingOutputRasterLayer("CONFIDENCE", "Confidence raster"))
        self.addOutput(QgsProcessingOutputVectorLayer("OBJECTS", "Objects", QgsProcessing.TypeVectorPolygon))
        self.addOutput(QgsProcessingOutputFile("PROJECT", "QGIS project"))

    def outputs(self, result, parameters, context):
        """Return the rasters, the objects, the project and the report."""
        made = self.shown(result, parameters, context, "classes", "objects")
        names = {"CLASSES_RASTER": "classes", "CONFIDENCE": "confidence", "OBJECTS": "objects"}
        names.update(PROJECT="project", REPORT="html" if "html" in made else "report")
        folder = self.parameterAsString(parameters, "OUTPUT", context)
        return {"OUTPUT": folder, **{name: made[kind] for name, kind in names.items() if kind in made}}


class Predict(_Mapping):
    """`pfmap predict`."""

    NAME, TITLE, COMMAND = "predict", "Map a raster layer", "predict"
    HELP = (
        "Maps an orthophoto of any size: a class raster, its confidence, and a polygon for each object.\n\n"
        "pfmap does it as a program of its own, on this machine or where its settings say. A run that was "
        "canceled goes on when it is run again with the same values."
    )

    def initAlgorithm(self, _config=None):
        """Add the parameters."""
        self.add(QgsProcessingParameterRasterLayer("INPUT", "Orthophoto"), "A file that GDAL reads")
        extent = QgsProcessingParameterExtent("EXTENT", "Extent", optional=True)
        self.add(extent, "Only this part is mapped; all of it where empty")
        self.add_mapping()
        self.addOutput(QgsProcessingOutputFile("REPORT", "Report"))

    def arguments(self, parameters, context):
        """Return the scene, the extent in its CRS, and the options."""
        words = [self.raster(parameters, "INPUT", context), "-m", self.model(parameters, context)]
        layer = self.parameterAsRasterLayer(parameters, "INPUT", context)
        box = self.parameterAsExtent(parameters, "EXTENT", context, layer.crs())
        if parameters.get("EXTENT") and not box.isNull():
            sides = box.xMinimum(), box.yMinimum(), box.xMaximum(), box.yMaximum()
            words.append("--bbox=" + ",".join(map(repr, sides)))
            words += [] if isinstance(words[0], Place) else ["--bbox-crs", layer.crs().authid()]
        return words + self.shape(parameters, context) + self.common(parameters, context)


class Batch(_Mapping):
    """`pfmap batch`."""

    NAME, TITLE, COMMAND = "batch", "Map a folder", "batch"
    HELP = (
        "Maps all orthophotos of a folder, and joins them into one map with a report. What is mapped already "
        "is left alone; scenes that fail are told, and do not keep the others from being mapped."
    )

    def initAlgorithm(self, _config=None):
        """Add the parameters."""
        kind = QgsProcessingParameterFile.Folder
        self.add(QgsProcessingParameterFile("INPUT", "Folder of orthophotos", kind))
        about = "Such as ortho_*.tif; all rasters with a place where empty"
        self.add_text("GLOB", "Which files are scenes", about)
        self.add_mapping()
        self.addOutput(QgsProcessingOutputHtml("REPORT", "Report"))

    def arguments(self, parameters, context):
        """Return the folder and the options."""
        folder = Place(self.parameterAsString(parameters, "INPUT", context))
        words = [folder, "-m", self.model(parameters, context)]
        words += self.given(parameters, context, GLOB="--glob")
        return words + self.shape(parameters, context) + self.common(parameters, context)


class Vectorize(_Shaping):
    """`pfmap vectorize`."""

    NAME, TITLE, COMMAND = "vectorize", "Polygons of a class raster", "vectorize"
    HELP = "Turns a class raster of any origin into polygons without gaps, steps and overlaps."

    def initAlgorithm(self, _config=None):
        """Add the parameters."""
        self.add(QgsProcessingParameterRasterLayer("INPUT", "Class raster"))
        about = "Such as 1=road,2=building; those in the raster where empty"
        self.add_text("NAMES", "Names of the classes", about)
        self.add_shape()
        self.add_folder()
        self.addOutput(QgsProcessingOutputVectorLayer("OBJECTS", "Objects", QgsProcessing.TypeVectorPolygon))

    def arguments(self, parameters, context):
        """Return the raster and the options."""
        words = [self.raster(parameters, "INPUT", context), *self.given(parameters, context, NAMES="--names")]
        return words + self.shape(parameters, context) + self.common(parameters, context)

    def outputs(self, result, parameters, context):
        """Return the folder and the objects."""
        made = self.shown(result, parameters, context, "objects")
        folder = self.parameterAsString(parameters, "OUTPUT", context)
        return {"OUTPUT": folder, "OBJECTS": made.get("objects", "")}


class Summary(Quick):
    """`pfmap summary`."""

    NAME, TITLE, COMMAND = "summary", "Summary per zone", "summary"
    HELP = (
        "Counts objects and adds up their areas, per class and zone. Objects across a border are shared out."
    )

    def initAlgorithm(self, _config=None):
        """Add the parameters."""
        polygon = [QgsProcessing.TypeVectorPolygon]
        self.add(QgsProcessingParameterVectorLayer("INPUT", "Objects", polygon), "As pfmap wrote them")
        zones = QgsProcessingParameterVectorLayer("ZONES", "Zones", polygon, optional=True)
        self.add(zones, "Such as parcels; all is one zone where empty")
        about = "Field with the zones' names"
        self.add(QgsProcessingParameterField("ZONE_FIELD", about, None, "ZONES", optional=True))
        self.add(QgsProcessingParameterFileDestination("OUTPUT", "Table", "CSV files (*.csv)"))

    def arguments(self, parameters, context):
        """Return the objects and the zones."""
        words = [self.file(parameters, "INPUT", context)]
        if parameters.get("ZONES"):
            words += ["--zones", self.file(parameters, "ZONES", context)]
        return words + self.given(parameters, context, ZONE_FIELD="--zone-field") + ["--csv"]

    def outputs(self, result, parameters, context):
        """Write the table."""
        path = self.parameterAsFileOutput(parameters, "OUTPUT", context)
        with open(path + ".part", "w", encoding="utf-8", newline="") as file:
            file.write(result)
        os.replace(path + ".part", path)
        return {"OUTPUT": path}


class Review(Quick):
    """`pfmap review`."""

    NAME, TITLE, COMMAND = "review", "List objects worth a look", "review"
    HELP = (
        "Lists the objects of a map that are most worth a look, in order. Open the form of the layer: choose "
        "the class, tick what you have checked, and save. Fine-tune a model then learns from what is ticked."
    )

    def initAlgorithm(self, _config=None):
        """Add the parameters."""
        polygon = [QgsProcessing.TypeVectorPolygon]
        self.add(QgsProcessingParameterVectorLayer("INPUT", "Objects", polygon), "As pfmap wrote them")
        kind = QgsProcessingParameterNumber.Integer
        self.add(QgsProcessingParameterNumber("COUNT", "Objects to look at", kind, 200, minValue=1))
        self.add(QgsProcessingParameterBoolean("LOAD", "Load the list", True))
        self.add(QgsProcessingParameterFileDestination("OUTPUT", "List", "GeoPackages (*.gpkg)"))
        self.addOutput(QgsProcessingOutputVectorLayer("OBJECTS", "Objects", QgsProcessing.TypeVectorPolygon))

    def arguments(self, parameters, context):
        """Return the objects, their number and the list."""
        target = Place(self.parameterAsFileOutput(parameters, "OUTPUT", context))
        words = [self.file(parameters, "INPUT", context), "-o", target]
        return words + self.given(parameters, context, COUNT="--count")

    def outputs(self, result, parameters, context):
        """Return the list, and have it loaded."""
        path = self.parameterAsFileOutput(parameters, "OUTPUT", context)
        made = self.shown({"outputs": {"gpkg": path}}, parameters, context, "objects")
        return {"OUTPUT": path, "OBJECTS": made["objects"]}


class Evaluate(Algorithm):
    """`pfmap evaluate`."""

    NAME, TITLE, COMMAND = "evaluate", "Evaluate a map", "evaluate"
    HELP = "Compares a map with the truth, and writes a page with all figures and a map of errors."

    def initAlgorithm(self, _config=None):
        """Add the parameters."""
        about = "A class raster, or polygons with a field class"
        self.add(QgsProcessingParameterMapLayer("INPUT", "Map"), about)
        self.add(QgsProcessingParameterMapLayer("TRUTH", "Truth"), "A class raster, or polygons")
        self.add_text("FIELD", "Field of the truth with its class", "class where empty")
        self.add_text("ONLY", "Classes that are told apart", "Such as building: all else is one class")
        self.add_text("OBJECTS", "Classes whose objects are matched one by one", "Such as building")
        self.add(QgsProcessingParameterFileDestination("OUTPUT", "Page", "HTML files (*.html)"))
        self.addOutput(QgsProcessingOutputNumber("MEAN_IOU", "Mean intersection over union"))
        self.addOutput(QgsProcessingOutputNumber("ACCURACY", "Overall accuracy"))

    def arguments(self, parameters, context):
        """Return both sides and the options."""
        flags = {"FIELD": "--field", "ONLY": "--only", "OBJECTS": "--objects"}
        page = Place(self.parameterAsFileOutput(parameters, "OUTPUT", context))
        words = [self.file(parameters, name, context) for name in ("INPUT", "TRUTH")]
        return [*words, "--html", page, *self.given(parameters, context, **flags)]

    def outputs(self, result, parameters, context):
        """Return the page and its main figures."""
        figures = result["figures"]
        page = self.parameterAsFileOutput(parameters, "OUTPUT", context)
        return {"OUTPUT": page, "MEAN_IOU": figures["mean"]["iou"], "ACCURACY": figures["overall_accuracy"]}


class Train(Algorithm):
    """`pfmap train`."""

    NAME, TITLE, COMMAND = "train", "Fine-tune a model", "train"
    HELP = (
        "Trains a model for your own ground: starts from one that is there, and learns from polygons that "
        "you drew over an orthophoto, or from what you ticked in a list of objects worth a look. A part of "
        "the ground is held out to measure."
    )

    def initAlgorithm(self, _config=None):
        """Add the parameters."""
        self.add(QgsProcessingParameterRasterLayer("INPUT", "Orthophoto"))
        polygon = [QgsProcessing.TypeVectorPolygon]
        self.add(QgsProcessingParameterVectorLayer("LABELS", "Polygons with their class", polygon))
        field = QgsProcessingParameterField("FIELD", "Field with the class", "class", "LABELS", optional=True)
        self.add(field)
        self.add_model()
        kind = QgsProcessingParameterNumber.Integer
        steps = QgsProcessingParameterNumber("STEPS", "Steps", kind, 400, minValue=1)
        self.add(steps, "On two cores of a CPU a step takes some seconds, on a GPU a tenth of one")
        self.add(QgsProcessingParameterBoolean("OVERWRITE", "Replace a model that is there", False))
        self.add_text("FURTHER", "Further options", "As on the command line", advanced=True)
        self.add(QgsProcessingParameterFolderDestination("OUTPUT", "Model folder"))

    def arguments(self, parameters, context):
        """Return the scene, the labels and the options."""
        labels = self.file(parameters, "LABELS", context)
        words = [self.raster(parameters, "INPUT", context), "--labels", labels]
        words += ["--from", self.model(parameters, context)]
        words += self.given(parameters, context, FIELD="--field", STEPS="--steps")
        return words + self.common(parameters, context)

    def outputs(self, result, parameters, context):
        """Return the model's folder."""
        return {"OUTPUT": self.parameterAsString(parameters, "OUTPUT", context)}


ALGORITHMS = (Predict, Batch, Vectorize, Summary, Evaluate, Review, Train)
