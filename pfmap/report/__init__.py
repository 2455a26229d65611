"""What people read: figures, tables, web pages, STAC catalogues, QGIS projects and thumbnails."""
