"""The demo server behind `python -m common.serve`: answers, pictures, the model's thread, the page.

A request passes guard.py (connections, headers, bodies), then app.py (routes and errors), then
service.py (the model) with pictures.py (files that are not trusted); server.py runs it all.

It may import everything up to common/apis.py and common/attention_maps.py, but neither
common/inspection and common/deploy nor a command. FastAPI and uvicorn are the extra 'serve': they
are imported in functions only, so that every module here can be imported without them.
"""
