# Each of these is the only command a fresh machine needs: Python 3.11 or later, git and make.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
COMPILED := .venv/.compiled

# A Python that has QGIS's own modules: the system's, where QGIS is installed.
QGIS_PYTHON ?= /usr/bin/python3

.PHONY: demo test test-quick test-slow test-all test-qgis test-browser lint lint-packages dist docs clean

demo: $(STAMP)
	$(BIN)/python -m examples.demo

test: lint test-quick

test-quick: $(COMPILED)
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(COMPILED)
	$(BIN)/python -m pytest -m slow

test-all: $(COMPILED)
	$(BIN)/python -m pytest

test-qgis: $(STAMP)
	rm -rf out/qgis
	$(BIN)/pfmap predict examples/banepa.tif -o out/qgis --regularize building --min-area 2 \
		--format gpkg --format shp --format fgb --format geojson
	$(QGIS_PYTHON) tests/qgis/open_project.py out/qgis/banepa.qgz out/qgis/banepa.png
	rm -rf out/toolbox
	$(BIN)/python tests/qgis/use_toolbox.py $(BIN)/pfmap out/toolbox

test-browser: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,browser]'
	$(BIN)/python tests/browser/open_report.py --check
	rm -rf out/browser
	$(BIN)/python -m examples.survey_python out/browser
	$(BIN)/python tests/surveys.py out/browser
	$(BIN)/python tests/browser/open_report.py out/browser/maps/survey_report.html out/browser/one
	$(BIN)/python tests/browser/open_report.py out/browser/many/survey_report.html out/browser/many
	$(BIN)/pfmap vectorize out/browser/maps/survey_classes.vrt -o out/browser/tiles --format gpkg --format pmtiles
	npm install --silent --no-save --prefix out/browser/npm maplibre-gl@5.24.1 pmtiles@4.5.0
	$(BIN)/python tests/browser/open_tiles.py out/browser/tiles/survey_objects.pmtiles \
		out/browser/tiles/survey_objects.gpkg out/browser/npm/node_modules out/browser/tiles

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# What is published, whole and as the registry wants it; and all that packs it elsewhere.
dist: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,release]'
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

lint-packages: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,release]'
	$(BIN)/hadolint Containerfile
	$(BIN)/yamllint --strict -d '{extends: default, rules: {document-start: disable, line-length: {max: 130}, truthy: {check-keys: false}}}' \
		.github/workflows
	$(BIN)/zizmor --offline --pedantic .github

docs: $(STAMP)
	$(BIN)/python -m docs.make_cli

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

# Once, while lint runs: the processes that test would each compile the same at their start.
$(COMPILED): $(STAMP) $(wildcard pfmap/trace/*.py)
	$(BIN)/python -c "import pfmap.trace.tracer as t; t.warm_up(t.Separation(frozenset({0}), frozenset({1})))"
	touch $(COMPILED)

clean:
	rm -rf .venv out
