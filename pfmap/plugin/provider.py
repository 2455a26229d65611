"""The plugin, and the provider of algorithms with its settings."""

import os
import time

from processing.core.ProcessingConfig import ProcessingConfig, Setting
from qgis.core import QgsApplication, QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

from .algorithms import ALGORITHMS
from .program import Program, ProgramError

_COMMAND, _PATHS = "PFMAP_COMMAND", "PFMAP_PATHS"
_GROUP = "pfmap"
_FRESH = 60.0  # seconds for which the list of models is not asked for again


class Plugin:
    """What QGIS loads: adds the provider, and takes it away."""

    def __init__(self, _iface):
        self.provider = None

    def initProcessing(self):
        """Add the provider; `qgis_process` calls this alone."""
        self.provider = Provider()
        QgsApplication.processingRegistry().addProvider(self.provider)

    def initGui(self):
        """Add the provider to QGIS's window."""
        self.initProcessing()

    def unload(self):
        """Take the provider away."""
        QgsApplication.processingRegistry().removeProvider(self.provider)


class Provider(QgsProcessingProvider):
    """The group "pfmap" of the toolbox."""

    def __init__(self):
        super().__init__()
        self._models, self._asked = ["landcover"], -_FRESH

    def id(self):
        """Return what names of algorithms begin with."""
        return "pfmap"

    def name(self):
        """Return the group's name."""
        return "pfmap"

    def longName(self):
        """Return what the provider does."""
        return "pfmap: land cover and buildings of orthophotos"

    def icon(self):
        """Return the group's icon."""
        return QIcon(os.path.join(os.path.dirname(__file__), "icon.svg"))

    def load(self):
        """Add the settings, then the algorithms."""
        ProcessingConfig.settingIcons[_GROUP] = self.icon()
        for name, text, hint in (
            (_COMMAND, "Command (empty: found by itself)", "pfmap, or such as: ssh server pfmap"),
            (_PATHS, "Paths where the command runs elsewhere", "/home/me/data=/data; /mnt/maps=/srv/maps"),
        ):
            ProcessingConfig.addSetting(
                Setting(_GROUP, name, text, "", valuetype=Setting.STRING, placeholder=hint)
            )
        ProcessingConfig.readSettings()
        self.refreshAlgorithms()
        return True

    def unload(self):
        """Take the settings away."""
        for name in (_COMMAND, _PATHS):
            ProcessingConfig.removeSetting(name)

    def loadAlgorithms(self):
        """Add the algorithms."""
        for kind in ALGORITHMS:
            self.addAlgorithm(kind())

    def program(self):
        """Return pfmap as the settings have it."""
        return Program.of(*(ProcessingConfig.getSetting(name) or "" for name in (_COMMAND, _PATHS)))

    def models(self):
        """Return the names of the models that pfmap knows; those known before where it does not answer."""
        if time.monotonic() - self._asked > _FRESH:
            self._asked = time.monotonic()
            try:
                self._models = self.program().models() or self._models
            except ProgramError as error:  # it is said again once an algorithm runs
                QgsApplication.messageLog().logMessage(str(error), "pfmap")
        return self._models

    def warningMessage(self):
        """Say what keeps the algorithms from running."""
        try:
            return self.program().missing()
        except ProgramError as error:
            return str(error)
