export CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7
exec python -m paddle.distributed.launch main.py train \
-cfg='mask_rcnn_vitaev2_vsa_s_1x' \
-data_path='/dataset/coco' \
-pretrained='./vitaev2_vsa_s.pdparams' \
"$@"
