export CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7
exec python -m paddle.distributed.launch main.py eval \
-data_path='/dataset/coco' \
-pretrained='./output/RUN' \
"$@"
