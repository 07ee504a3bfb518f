import pytest, torch
from torch import nn
from torch.testing import assert_close
from arsr.autoencoder import Attention, Decoder, Encoder, ResBlock, norm

@pytest.mark.parametrize('mult, f', [((1,), 1), ((1, 2), 2), ((1, 2, 4), 4), ((1, 2, 4, 4), 8)])
def test_latent_is_f_times_smaller_and_the_decoder_keeps_its_size(mult, f):
    encoder, decoder = Encoder(8, mult, 1, z=5), Decoder(8, mult, 1, z=5)
    z = encoder(torch.randn(2, 3, 16, 40))
    assert z.shape == (2, 5, 16 // f, 40 // f)
    assert decoder(z).shape == (2, 8, *z.shape[-2:]) and decoder.n_feat == 8

def test_the_decoder_has_one_block_more_a_level_and_mirrors_the_channels():
    encoder, decoder = (net(8, (1, 2, 4), 2, z=3) for net in (Encoder, Decoder))
    def widths(net): return [m.body[-1].out_channels for m in net.layers if isinstance(m, ResBlock)]
    assert widths(encoder) == [8, 8, 16, 16, 32, 32]
    assert widths(decoder) == [32, 32, 32, 16, 16, 16, 8, 8, 8]
    assert isinstance(decoder.layers[-1], ResBlock)  # no norm and no convolution after the last block
    assert encoder.layers[-1].kernel_size == (1, 1)

def test_any_multiple_of_f_goes_through_and_neighbours_do_not_mix():
    encoder = Encoder(8, (1, 2), 1, z=2).eval()
    x = torch.randn(2, 3, 12, 20)
    assert_close(encoder(x)[:1], encoder(x[:1]), atol=1e-5, rtol=1e-4)

@pytest.mark.parametrize('c, groups', [(512, 32), (128, 32), (32, 8), (16, 4), (4, 1)])
def test_groups(c, groups): assert norm(c).num_groups == groups

@pytest.mark.parametrize('c, c_head', [(16, None), (64, 32), (16, 32), (112, 32)])
def test_attention_does_not_know_where_a_cell_is(c, c_head):
    attend, x, order = Attention(c, c_head), torch.randn(2, c, 3, 5), torch.randperm(15)
    def shuffle(a): return a.flatten(2)[..., order].unflatten(2, (3, 5))
    assert_close(attend(shuffle(x)), shuffle(attend(x)), atol=1e-5, rtol=1e-4)

def test_attention_has_32_channels_a_head_and_one_head_by_default():
    assert Attention(640, 32).heads == 20 and Attention(512).heads == 1

def test_skip_is_a_1x1_convolution_only_where_channels_change():
    assert isinstance(ResBlock(8, 8).skip, nn.Identity)
    assert ResBlock(8, 16).skip.kernel_size == (1, 1)
