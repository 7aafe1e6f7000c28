export CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7
exec python main_multi_gpu.py \
-cfg='./configs/vit_base_patch16_384_finetune.yaml' \
-dataset='imagenet2012' \
-batch_size=64 \
-data_path='/dataset/imagenet' \
-pretrained='./vit_base_patch16_224.pdparams' \
-amp \
"$@"
