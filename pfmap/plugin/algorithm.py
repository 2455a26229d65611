"""What all algorithms share: a command of pfmap that is run and followed, and layers that are loaded."""

import os
import shlex
from urllib.parse import parse_qsl

from qgis.core import (
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingLayerPostProcessorInterface,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterEnum,
    QgsProcessingParameterFile,
    QgsProcessingParameterFolderDestination,
    QgsProcessingParameterNumber,
    QgsProcessingParameterString,
    QgsRasterLayer,
)

from .program import WHERE, Place, ProgramError, Stopped, split

FORMATS = ("gpkg", "shp", "fgb", "geojson")
_FILES = [*FORMATS, "parquet"]  # of which pfmap reads a layer as it is


class Algorithm(QgsProcessingAlgorithm):
    """An algorithm that runs a command of pfmap."""

    NAME = TITLE = HELP = COMMAND = ""

    def __init__(self, *, used=False):
        super().__init__()
        self._used = used  # not only registered: the models are worth asking for

    def name(self):
        """Return the name behind `pfmap:`."""
        return self.NAME

    def displayName(self):
        """Return the name in the toolbox."""
        return self.TITLE

    def shortHelpString(self):
        """Return what the dialog shows beside the parameters."""
        return self.HELP

    def icon(self):
        """Return the provider's icon."""
        return self.provider().icon()

    def createInstance(self):
        """Return another of the kind, to be filled in and run."""
        return type(self)(used=True)

    def canExecute(self):
        """Say whether pfmap is there."""
        problem = self.provider().warningMessage()
        return not problem, problem

    def processAlgorithm(self, parameters, context, feedback):
        """Run the command, and return its outputs by name; its layers are loaded if that is asked for."""
        try:
            words = [*self.COMMAND.split(), *self.arguments(parameters, context)]
            shown = (word.partition("?")[0] if "://" in word else word for word in words)  # without keys
            feedback.pushCommandInfo(" ".join(["pfmap", *map(shlex.quote, shown)]))
            ended = self.provider().program().run(words, _Teller(feedback), feedback.isCanceled)
        except Stopped as stop:
            feedback.pushInfo(f"{stop} Run it again with the same values to go on.")
            return {}
        except ProgramError as error:
            raise QgsProcessingException(str(error)) from error
        if ended.error:
            feedback.reportError(ended.error)
        if hidden := [path for path in ended.result["outputs"].values() if not os.path.exists(path)]:
            feedback.reportError(
                f"{hidden[0]} was made, and cannot be seen from here: pair its folder in {WHERE}"
            )
        return self.outputs(ended.result, parameters, context)

    def arguments(self, parameters, context):
        """Return what follows the command."""
        raise NotImplementedError

    def outputs(self, result, parameters, context):
        """Return the outputs by name, of the result that pfmap told."""
        raise NotImplementedError

    def add(self, parameter, about="", *, advanced=False):
        """Add a parameter with its help."""
        parameter.setHelp(about)
        if advanced:
            parameter.setFlags(parameter.flags() | QgsProcessingParameterDefinition.FlagAdvanced)
        self.addParameter(parameter)

    def add_text(self, name, label, about, *, advanced=False):
        """Add an optional text."""
        self.add(QgsProcessingParameterString(name, label, optional=True), about, advanced=advanced)

    def add_number(self, name, label, about, *, advanced=False):
        """Add an optional number of 0 or more."""
        kind = QgsProcessingParameterNumber.Double
        number = QgsProcessingParameterNumber(name, label, kind, None, optional=True, minValue=0)
        self.add(number, about, advanced=advanced)

    def add_folder(self):
        """Add the folder of outputs, and whether these are loaded; last comes what is given as it is."""
        self.add(QgsProcessingParameterBoolean("OVERWRITE", "Replace outputs that are there", False))
        self.add(QgsProcessingParameterBoolean("LOAD", "Load the results", True))
        about = "As on the command line, such as --tta flips"
        self.add_text("FURTHER", "Further options", about, advanced=True)
        self.add(QgsProcessingParameterFolderDestination("OUTPUT", "Folder of the outputs"))

    def add_model(self):
        """Add the choice of a model."""
        names = self.provider().models() if self._used else ["landcover"]
        how = {"defaultValue": names[0], "usesStaticStrings": True}
        choice = QgsProcessingParameterEnum("MODEL", "Model", names, **how)
        self.add(choice, "What pfmap models list shows")
        kind = QgsProcessingParameterFile.Folder
        folder = QgsProcessingParameterFile("MODEL_FOLDER", "Model folder, instead", kind, optional=True)
        self.add(folder, "A model of your own, as Fine-tune a model writes it", advanced=True)

    def given(self, parameters, context, **flags):
        """Return the flags and values of parameters that have one."""
        words = []
        for name, flag in flags.items():
            text = self.parameterAsString(parameters, name, context).strip()
            if parameters.get(name) is not None and text:
                words += [flag, text]
        return words

    def common(self, parameters, context):
        """Return what all commands with a folder of outputs take."""
        words = ["-o", Place(self.parameterAsString(parameters, "OUTPUT", context))]
        if self.parameterAsBool(parameters, "OVERWRITE", context):
            words.append("--overwrite")
        return words + split(self.parameterAsString(parameters, "FURTHER", context))

    def model(self, parameters, context):
        """Return the model that is chosen."""
        folder = self.parameterAsString(parameters, "MODEL_FOLDER", context)
        return Place(folder) if folder else self.parameterAsEnumString(parameters, "MODEL", context)

    def raster(self, parameters, name, context):
        """Return where the pixels of a raster layer lie: a file, or the address of a server's tiles."""
        layer = self.parameterAsRasterLayer(parameters, name, context)
        if layer is None:
            raise ProgramError(self.invalidRasterError(parameters, name))
        kind = layer.providerType()
        tiles = dict(parse_qsl(layer.source())) if kind == "wms" else {}
        if tiles.get("type") == "xyz":
            return tiles["url"]
        if kind != "gdal":
            raise ProgramError(f"layer {layer.name()} comes from a service ({kind}): choose a file")
        return Place(layer.source())

    def file(self, parameters, name, context):
        """Return where a layer lies; vectors that are no file, or filtered, are written to one first."""
        if isinstance(self.parameterAsLayer(parameters, name, context), QgsRasterLayer):
            return self.raster(parameters, name, context)
        path, layer = self.parameterAsCompatibleSourceLayerPathAndLayerName(
            parameters, name, context, _FILES, "gpkg", None
        )
        if not path:
            raise ProgramError(f"the layer of {name} cannot be read: choose another")
        return Place(path, layer if path.lower().endswith(".gpkg") else "")

    def shown(self, result, parameters, context, *kinds):
        """Have layers loaded, the lowest first, in a group that is named after what they show."""
        outputs = {kind: path for kind, path in result["outputs"].items() if os.path.isfile(path)}
        vector = next((kind for kind in FORMATS if kind in outputs), None)
        if vector:
            outputs["objects"] = outputs[vector] + ("|layername=objects" if vector == "gpkg" else "")
        if self.parameterAsBool(parameters, "LOAD", context):
            for place, kind in enumerate(kinds):
                if kind in outputs:
                    _load(outputs[kind], kind, place, context)
        return outputs


class Quick(Algorithm):
    """A command that needs no following: it prints, or writes one file."""

    def processAlgorithm(self, parameters, context, feedback):
        """Run the command, and return what comes of what it printed."""
        try:
            program = self.provider().program()
            program.refuse_old()
            words = [self.COMMAND, *self.arguments(parameters, context)]
            text = program.ask(*words, is_canceled=feedback.isCanceled)
        except Stopped:
            return {}
        except ProgramError as error:
            raise QgsProcessingException(str(error)) from error
        feedback.pushConsoleInfo(text)
        return self.outputs(text, parameters, context)


def _load(source, kind, place, context):
    """Have a layer loaded once the algorithm has ended."""
    stem = os.path.splitext(os.path.basename(source.split("|")[0]))[0]
    group = stem[: -len(kind) - 1] if stem.endswith(kind) else stem
    details = QgsProcessingContext.LayerDetails(stem, context.project(), kind.upper())
    details.forceName = True
    if hasattr(details, "groupName"):  # from QGIS 3.32 on
        details.groupName, details.layerSortKey = group, place
    _Look.kept.append(_Look(group))
    details.setPostProcessor(_Look.kept[-1])
    context.addLayerToLoadOnCompletion(source, details)


class _Look(QgsProcessingLayerPostProcessorInterface):
    """Gives a layer the style that lies beside or in its file, and its place in the group."""

    kept = []  # QGIS holds them no longer than Python does

    def __init__(self, group):
        super().__init__()
        self._group = group

    def postProcessLayer(self, layer, context, _feedback):
        """Style it, and move it to its group where QGIS has not."""
        layer.loadDefaultStyle()
        layer.triggerRepaint()
        root = context.project().layerTreeRoot() if context.project() else None
        node = root.findLayer(layer.id()) if root else None
        if node is not None and node.parent() is root:
            group = root.findGroup(self._group) or root.insertGroup(0, self._group)
            group.insertChildNode(0, node.clone())
            root.removeChildNode(node)
        if self in _Look.kept:
            _Look.kept.remove(self)


class _Teller:
    """Shows the events of a run in the dialog of an algorithm."""

    def __init__(self, feedback):
        self._feedback = feedback

    def __call__(self, event):
        kind, text = event["event"], event.get("text", "")
        if kind == "progress":
            self._feedback.setProgress(100 * event["done"] / max(event["total"], 1))
        elif kind == "stage":
            self._feedback.setProgressText(text)
        elif kind == "warning":
            self._feedback.pushWarning(text)
        elif kind == "plan":
            size, left = event["plan"], event["estimate"]["seconds"]
            about = "" if left is None else f", about {left:.0f} s"
            what = f"{size['windows_to_compute']} of {size['windows']} windows on {size['device']}{about}"
            self._feedback.pushInfo(what)
        elif kind == "scene":
            text = f"{event['state']}: {event['scene']}" + f": {event['reason']}" * bool(event["reason"])
            (self._feedback.reportError if event["state"] == "failed" else self._feedback.pushInfo)(text)
        elif kind == "validation":
            mean = sum(event["iou"].values()) / max(len(event["iou"]), 1)
            self._feedback.pushInfo(f"step {event['step']}, {event['part']}: mean IoU {mean:.3f}")
        elif kind in ("message", "other", "library"):
            self._feedback.pushConsoleInfo(text)
