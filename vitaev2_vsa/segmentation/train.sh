export CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7
exec python -m paddle.distributed.launch main.py train \
-cfg='upernet_vitaev2_s_ade20k' \
-data_path='/dataset/ADEChallengeData2016' \
-pretrained='./ViTAEv2-S.pth.tar' \
"$@"
