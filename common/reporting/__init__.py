"""What a model gets wrong, and why: the report of a trained model on its validation set, as a page
that needs no network, tables and pictures: the work of the command report.

The way of it: source.py finds model and data, predictions.py keeps what is needed of each image
while it is evaluated; figures.py, findings.py, duplicates.py and comparison.py make numbers of it,
tables.py, pictures.py and gallery.py files and pictures of those; html.py, parts.py,
image_parts.py and page.py the page; report.py does all of it. docs/report.md says what each number
means.

It may import everything up to common/inspection, but no command.
"""
