export CUDA_VISIBLE_DEVICES=0
exec python main.py infer \
-pretrained='./output/RUN' \
-output='./detections' \
"$@"
