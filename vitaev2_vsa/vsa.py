"""Varied-size window attention (VSA); common/layers/vsa.py holds it, since ViTAEv2 and Swin share
it. Its names can be imported from here, too."""
from common.layers.vsa import TokenVSA, VSAWindowAttention, Windows, windows_in_pixels

__all__ = ['TokenVSA', 'VSAWindowAttention', 'Windows', 'windows_in_pixels']
