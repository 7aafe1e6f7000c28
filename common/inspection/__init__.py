"""What a trained model gives for images, as files and pictures: the work of the commands predict,
features and visualize.

predictions.py and features.py write numbers. The ..._pictures.py each make one kind of picture of
`python -m common.visualize`, with drawing.py for what they share on paper; image_pictures.py draws
for many images, output.py decides on the files' names.

It may import everything up to common/apis.py and common/attention_maps.py, but neither
common/serving and common/deploy nor a command.
"""
