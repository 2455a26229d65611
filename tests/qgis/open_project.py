"""Open what pfmap wrote in QGIS itself, check it, and draw a picture of it.

    make test-qgis

runs this with the system's Python, which has QGIS's own modules (Debian: ``apt-get install python3-qgis``).

    python3 tests/qgis/open_project.py PROJECT.qgz PICTURE.png

Every layer of the project has to open, every vector and raster file beside it too, styled by class in the
colours of the project's legend; GDAL's own ogrinfo and its check of cloud-optimised GeoTIFFs have to agree.
What is wrong is said on stderr, and the exit status is 1.
"""

import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from osgeo_utils.samples import validate_cloud_optimized_geotiff
from qgis.core import (
    QgsApplication,
    QgsCategorizedSymbolRenderer,
    QgsLayerTreeModel,
    QgsLegendRenderer,
    QgsLegendSettings,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsPalettedRasterRenderer,
    QgsProject,
    QgsRasterLayer,
    QgsRectangle,
    QgsRenderContext,
    QgsVectorLayer,
)
from qgis.gui import QgsMapCanvas
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor, QPainter

PROBLEMS = []


def expect(fine, problem):
    if not fine:
        PROBLEMS.append(problem)


def legend_of(layer):
    """Names and colours by which a layer is styled; nothing where it is not by class."""
    renderer = layer.renderer()
    if isinstance(renderer, QgsCategorizedSymbolRenderer):
        return {c.label(): QColor(c.symbol().color().rgb()).name() for c in renderer.categories()}
    if isinstance(renderer, QgsPalettedRasterRenderer):
        return {c.label: QColor(c.color.rgb()).name() for c in renderer.classes()}
    return {}


def check_layers(project):
    """Check the project's layers; return the legend of its class raster."""
    nodes = project.layerTreeRoot().findLayers()
    expect(len(nodes) >= 3, f"the project has {len(nodes)} layers")
    expect(project.crs().isValid(), "the project has no CRS")
    legend = {}
    for node in nodes:
        layer = node.layer()
        if layer is None or not layer.isValid():
            expect(False, f"layer {node.name()} does not open")
            continue
        expect(layer.crs() == project.crs(), f"layer {node.name()} is in {layer.crs().authid()}")
        kind = layer.renderer().type()
        print(f"layer {node.name()}: {kind}, {'shown' if node.itemVisibilityChecked() else 'off'}")
        if kind == "paletted":
            legend = legend_of(layer)
            expect(0 < layer.renderer().opacity() < 1, "the class raster hides the scene")
    expect(legend, "no layer is a class raster in colours")
    for layer in project.mapLayers().values():
        if isinstance(layer, QgsVectorLayer):
            check_objects(layer, legend)
    return legend


def check_objects(layer, legend):
    """Check a layer of objects, however it was opened."""
    name = layer.source()
    styled = legend_of(layer)
    expect(styled, f"{name} is not styled by class")
    expect(styled.items() <= legend.items(), f"{name} has other colours than the legend: {styled}")
    expect(layer.featureCount() > 0, f"{name} has no objects")
    field = layer.fields().indexOf("class")
    expect(field >= 0, f"{name} has no field class")
    expect(layer.uniqueValues(field) <= set(styled), f"{name} has classes without a colour")
    invalid = sum(not feature.geometry().isGeosValid() for feature in layer.getFeatures())
    expect(not invalid, f"{name} has {invalid} invalid polygons")
    print(
        f"objects {Path(name.split('|')[0]).name}: {layer.featureCount()}, all valid" if not invalid else name
    )


def check_with_gdal(path):
    """Run GDAL's programs on a file."""
    if path.suffix == ".tif":
        warnings, errors, _ = validate_cloud_optimized_geotiff.validate(str(path), full_check=True)
        expect(not warnings and not errors, f"{path.name} is no good COG: {warnings + errors}")
        print(f"COG {path.name}: {errors or warnings or 'valid'}")
        return
    done = subprocess.run(["ogrinfo", "-al", "-so", str(path)], capture_output=True, text=True, check=False)
    expect(done.returncode == 0 and not done.stderr, f"ogrinfo on {path.name}: {done.stderr}")
    print("\n".join(line for line in done.stdout.splitlines() if line.startswith(("Geometry", "Feature"))))


def check_files(folder, legend):
    """Check that every file beside the project opens styled by itself, as when dragged into the window."""
    for path in sorted(folder.iterdir()):
        if path.suffix in {".gpkg", ".shp", ".fgb", ".geojson"}:
            source = f"{path}|layername=objects" if path.suffix == ".gpkg" else str(path)
            layer = QgsVectorLayer(source, path.stem, "ogr")
            check_with_gdal(path)
            expect(layer.isValid(), f"{path.name} does not open")
            if layer.isValid():
                check_objects(layer, legend)
        elif path.suffix == ".tif":
            layer = QgsRasterLayer(str(path), path.stem)
            check_with_gdal(path)
            expect(layer.isValid(), f"{path.name} does not open")
            if path.stem.endswith("_classes"):
                expect(legend_of(layer) == legend, f"{path.name} has other colours: {legend_of(layer)}")
            elif path.stem.endswith("_confidence"):
                kind = layer.renderer().type()
                expect(kind == "singlebandpseudocolor", f"{path.name} is drawn as {kind}")


def draw(project, full, picture):
    """Draw what is seen when the project is opened, with its legend, and a part of it closer."""
    shown = [node for node in project.layerTreeRoot().findLayers() if node.itemVisibilityChecked()]
    close = QgsRectangle(full)
    side = min(full.width(), full.height()) / 4
    close.setXMinimum(full.center().x() - side / 2), close.setXMaximum(full.center().x() + side / 2)
    close.setYMinimum(full.center().y() - side / 2), close.setYMaximum(full.center().y() + side / 2)
    settings = QgsMapSettings()
    settings.setLayers([node.layer() for node in shown])
    settings.setDestinationCrs(project.crs())
    settings.setBackgroundColor(QColor("white"))
    images = []
    for extent in (full, close):
        settings.setExtent(extent)
        settings.setOutputSize(QSize(900, 900))
        job = QgsMapRendererParallelJob(settings)
        job.start()
        job.waitForFinished()
        expect(not job.errors(), f"drawing failed: {[error.message for error in job.errors()]}")
        images.append(job.renderedImage())
    final = images[0].copy(0, 0, 2100, 900)
    final.fill(QColor("white"))
    painter = QPainter(final)
    painter.drawImage(0, 0, images[0])
    painter.drawImage(900, 0, images[1])
    painter.translate(1810, 10)
    context = QgsRenderContext.fromQPainter(painter)
    painter.scale(context.scaleFactor(), context.scaleFactor())
    tree = QgsLayerTreeModel(project.layerTreeRoot())  # the renderer only points at it
    QgsLegendRenderer(tree, QgsLegendSettings()).drawLegend(context)
    painter.end()
    final.save(str(picture))
    colors = {QColor(images[1].pixel(x, y)).name() for x in range(0, 900, 9) for y in range(0, 900, 9)}
    expect(len(colors) > 100, f"the picture has {len(colors)} colours only: is the scene there?")


def main():
    source, picture = Path(sys.argv[1]), Path(sys.argv[2])
    app = QgsApplication([], True)
    app.initQgis()
    project = QgsProject.instance()
    canvas = QgsMapCanvas()  # it follows the project, as in QGIS's window
    canvas.resize(900, 900)
    expect(project.read(str(source)), f"{source} cannot be read: {project.error()}")
    legend = check_layers(project)
    check_files(source.parent, legend)
    rasters = [layer.extent() for layer in project.mapLayers().values() if isinstance(layer, QgsRasterLayer)]
    view = canvas.extent().buffered(0.01)
    expect(any(view.contains(extent) for extent in rasters), "the map is not in view")
    draw(project, canvas.extent(), picture)
    for problem in PROBLEMS:
        print(f"wrong: {problem}", file=sys.stderr)
    print(f"QGIS opened {source}; picture: {picture}")
    sys.stdout.flush()
    os._exit(bool(PROBLEMS))  # QGIS's own clean-up may crash when its modules go


if __name__ == "__main__":
    main()
