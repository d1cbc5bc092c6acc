"""The architecture of the organism, and its pixel normalisation (CLIP's)."""
import torch
from transformers import LlavaConfig, CLIPVisionConfig, LlamaConfig, LlavaForConditionalGeneration
PAD, BOS, EOS, IMG = 3, 1, 2, 4

def build(vocab, layers=6, inter=344, d=128, heads=4, vl=4, vd=64, seed=0):
    torch.manual_seed(seed)
    v = CLIPVisionConfig(hidden_size=vd, intermediate_size=4 * vd, num_hidden_layers=vl, num_attention_heads=4, image_size=56,
                         patch_size=14, hidden_act="quick_gelu", projection_dim=vd)
    t = LlamaConfig(vocab_size=vocab, hidden_size=d, intermediate_size=inter, num_hidden_layers=layers, num_attention_heads=heads,
                    num_key_value_heads=heads, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=False,
                    bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD)
    c = LlavaConfig(vision_config=v, text_config=t, image_token_index=IMG, projector_hidden_act="gelu",
                    vision_feature_select_strategy="default", vision_feature_layer=-2, image_seq_length=16)
    c.tie_word_embeddings = False
    m = LlavaForConditionalGeneration(c)
    m.generation_config.pad_token_id = PAD; m.generation_config.eos_token_id = EOS; m.generation_config.bos_token_id = BOS
    return m

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
def pix(ims):
    import numpy as np
    x = torch.from_numpy(np.stack(ims)).permute(0, 3, 1, 2).float() / 255.
    return (x - MEAN) / STD
