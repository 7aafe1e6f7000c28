# make demo   installs into .venv, trains a small ViT on real images, evaluates, predicts
# make test   installs what the tests need and runs them; make quick: those that notice most
# make docs   builds site/, the documentation as pages that a browser opens and searches, and checks it
.PHONY: demo demo-detection demo-segmentation engines docs notebooks test quick test-engines test-paddle26 reliability gpu-check fuzz lint clean

# The first Python of 3.10 to 3.12 that runs; `make demo PYTHON=/path/to/python` chooses another.
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& echo $$p && break; done)
BIN = .venv/bin
BIN26 = .venv-paddle26/bin
DIGITS = data/digits
DEMO = output/demo

define make_venv
	@test -n "$(PYTHON)" || { echo "error: found no Python 3.10 to 3.12; make PYTHON=... names one" >&2; exit 1; }
	test -x $(1)/python || $(PYTHON) -m venv $(dir $(1))
endef

$(BIN)/.demo: pyproject.toml
	$(call make_venv,$(BIN))
	$(BIN)/pip install -q -e '.[cpu,digits]'
	touch $@

$(BIN)/.test: pyproject.toml
	$(call make_venv,$(BIN))
	$(BIN)/pip install -q -e '.[cpu,test,export,openvino,dev]'
	touch $@

$(BIN)/.docs: pyproject.toml
	$(call make_venv,$(BIN))
	$(BIN)/pip install -q -e '.[docs]'
	touch $@

$(BIN)/.notebooks: pyproject.toml
	$(call make_venv,$(BIN))
	$(BIN)/pip install -q -e '.[cpu,digits,report,notebooks]'
	touch $@

$(BIN26)/.test: pyproject.toml
	$(call make_venv,$(BIN26))
	$(BIN26)/pip install -q -e '.[test]' paddlepaddle==2.6.2 numpy==1.26.4 setuptools
	touch $@

# PaddleDetection and PaddleSeg; their own pins cannot be met beside this project.
$(BIN)/.engines: common/engines/requirements.txt | $(BIN)/.demo
	$(BIN)/pip install -q --no-deps -r $<
	touch $@

$(BIN26)/.engines: common/engines/requirements.txt | $(BIN26)/.test
	$(BIN26)/pip install -q --no-deps -r $<
	touch $@

engines: $(BIN)/.engines

$(DIGITS)/val_list.txt: | $(BIN)/.demo
	$(BIN)/python -m common.digits $(DIGITS)

demo: $(BIN)/.demo $(DIGITS)/val_list.txt
	@rm -rf $(DEMO)
	cd vit && ../$(BIN)/python main_multi_gpu.py -cfg=./configs/vit_digits.yaml \
		-data_path=../$(DIGITS) -output=../$(DEMO)/train
	@echo; echo "--- the saved weights, evaluated again"
	cd vit && ../$(BIN)/python main_multi_gpu.py -cfg=./configs/vit_digits.yaml \
		-data_path=../$(DIGITS) -output=../$(DEMO)/eval -eval \
		-pretrained=$$(ls -d ../$(DEMO)/train/*)/best.pdparams
	@echo; echo "--- one prediction"
	$(BIN)/python -m common.predict -cfg vit_digits -topk 3 \
		-pretrained $(DEMO)/train/*/best.pdparams $$(ls $(DIGITS)/val/7/*.png | head -1)
	@echo; echo "curves: $$(ls $(DEMO)/train/*/curves.png)"
	@echo "the trained ViT: $$(tail -1 $(DEMO)/train/*/log.txt | cut -d' ' -f3-)"

# Detection from nothing; `make demo-detection SEED=1` draws and trains others.
SEED ?= 0
DETECTION = $(BIN)/python -m common.detection
DETECTIONS = output/demo-detection

demo-detection: $(BIN)/.engines
	@rm -rf $(DETECTIONS)
	$(DETECTION) shapes $(DETECTIONS)/shapes -seed $(SEED)
	$(DETECTION) train -cfg mask_rcnn_vitaev2_vsa_shapes -data_path $(DETECTIONS)/shapes \
		-output $(DETECTIONS)/train -o SEED=$(SEED)
	@echo; echo "--- the saved weights, evaluated again by pycocotools"
	$(DETECTION) eval -pretrained $(DETECTIONS)/train/* -data_path $(DETECTIONS)/shapes \
		-output $(DETECTIONS)/eval
	@echo; echo "--- boxes and masks on held-out pictures"
	$(DETECTION) infer -pretrained $(DETECTIONS)/train/* -output $(DETECTIONS)/pictures \
		$$(ls $(DETECTIONS)/shapes/val/*.png | head -8)
	@echo; echo "pictures: $(DETECTIONS)/pictures/"

# Semantic segmentation from nothing; `make demo-segmentation SEED=1` draws and trains others.
SEGMENTATION = $(BIN)/python -m common.segmentation
SEGMENTS = output/demo-segmentation

demo-segmentation: $(BIN)/.engines
	@rm -rf $(SEGMENTS)
	$(SEGMENTATION) shapes $(SEGMENTS)/shapes -train 800 -seed $(SEED)
	$(SEGMENTATION) train -cfg upernet_shapes -data_path $(SEGMENTS)/shapes \
		-output $(SEGMENTS)/train -o SEED=$(SEED)
	@echo; echo "--- held-out pictures at one scale, and at several with mirror images"
	$(SEGMENTATION) eval -pretrained $(SEGMENTS)/train/* -data_path $(SEGMENTS)/shapes \
		-output $(SEGMENTS)/predictions
	$(SEGMENTATION) eval -pretrained $(SEGMENTS)/train/* -data_path $(SEGMENTS)/shapes -multi_scale
	@echo; echo "--- overlays"
	$(SEGMENTATION) infer -pretrained $(SEGMENTS)/train/* -output $(SEGMENTS)/overlays \
		$$(ls $(SEGMENTS)/shapes/images/val/*.png | head -4)
	@echo; echo "pictures: $(SEGMENTS)/predictions/examples.png $(SEGMENTS)/overlays/"

docs: $(BIN)/.docs
	$(BIN)/python -m docs.site.build

# Runs notebooks/ from the first cell to the last; tests/notebooks.py says how outputs are renewed.
notebooks: $(BIN)/.notebooks
	$(BIN)/python -m tests.notebooks

# On two processes.
test: $(BIN)/.test
	$(BIN)/python -m pytest -n 2 --dist worksteal

# The files that notice most mistakes for their time: layers and imports, configs, data, models and
# steps against plain forms, weights, predictions, and the scripts as a user starts them. Not in it:
# several ranks, exports, wheels, runs that are killed.
QUICK = layout config config_keys lists recognise loader transforms mixup imbalance \
	multi_label_csv vit vitae vsa engine optim weights safe_load class_names model_of_file apis \
	report_label_sets end_to_end
quick: $(BIN)/.test
	$(BIN)/python -m pytest -n 2 --dist worksteal $(QUICK:%=tests/test_%.py)

# The quick subset on the oldest supported Paddle and numpy.
test-paddle26: $(BIN26)/.test
	$(BIN26)/python -m pytest -n 2 --dist worksteal -m "smoke and not engines"

# Detection and segmentation, on both Paddles.
test-engines: $(BIN)/.test $(BIN)/.engines $(BIN26)/.test $(BIN26)/.engines
	$(BIN)/python -m pytest -n 2 --dist worksteal -m engines
	$(BIN26)/python -m pytest -n 2 --dist worksteal -m "engines and smoke"

# All tests with a fault's id in their names, at length, and a table of what passed; `make test` has
# the short form. A test that fails shows in the table too.
reliability: $(BIN)/.test
	@mkdir -p output; rm -f output/reliability.xml
	-$(BIN)/python -m pytest -p tests.reliability.scoreboard -n 2 --dist worksteal \
		-m "not engines" --junitxml=output/reliability.xml
	$(BIN)/python -m tests.reliability.scoreboard output/reliability.xml

# For a machine with a GPU: what a CPU cannot check, then figures; output/gpu-check.json has all of
# it, for an issue. Uses the Paddle of `python`, which must be one
# for GPUs; `make gpu-check PYTHON=...` chooses another.
gpu-check:
	$(PYTHON) -m tests.gpu_check

# 5,000 weight files, one half mutated, the other built from a grammar; `make test` loads 400.
fuzz: $(BIN)/.test
	$(BIN)/python -m tests.fuzz_weights 5000

lint: $(BIN)/.test
	$(BIN)/ruff check .

clean:
	rm -rf .venv .venv-paddle26 build data output site *.egg-info
