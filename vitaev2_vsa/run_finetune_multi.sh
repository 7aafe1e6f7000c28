export CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7
exec python main_multi_gpu.py \
-cfg='./configs/vitaev2_vsa_s.yaml' \
-dataset='imagenet2012' \
-batch_size=64 \
-data_path='/dataset/imagenet' \
-pretrained='./ViTAEv2-S-VSA.pth.tar' \
-amp \
"$@"
