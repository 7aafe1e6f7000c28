"""Exported models: writing a model's graph, checking it, and running it without the model's code.

export.py is the way from a model to a checked folder, with graph.py (Paddle's and ONNX's graphs),
isolated.py (the process in which a graph is converted and runs first) and check.py
(pictures, and by how much logits differ). The way back is load.py, with exported.py (the base of
the runtimes), paddle_inference.py, onnx_runtime.py and openvino_runtime.py; load.py has the table
of the runtimes, and auto.py finds the fastest. folder.py knows the files of both ways.
export_int8.py is the way to a folder with an int8 graph, which int8.py makes; evaluation.py gives
an export's accuracy.

It may import everything up to common/apis.py, but neither common/inspection and common/serving nor
a command. Users import common.runtimes and common.export.
"""
