"""Training on a CPU at twice the speed: the same functions by other kernels, in channels-last layout.

    python .ci/fused.py    images a second of a generator's training step, with each change after the other

`fuse(net)` changes a network in place, parameters and results stay (to rounding). What it changes, and why:
GroupNorm, with the SiLU after it, is fused.cpp, since PyTorch's gradient for channels-last maps is slow; attention over
few cells is PyTorch's own of two matrix products, since the gradient of its flash kernel is made for many; the weights'
gradient of 3x3 convolutions on maps of up to 8x8 cells is nine matrix products. It needs a C++ compiler with OpenMP and
ninja.
"""
import time
from functools import cache
from pathlib import Path
import torch, torch.nn.functional as F
from einops import rearrange
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.cpp_extension import load
from arsr.autoencoder import Attention

@cache
def kernels():
    "fused.cpp, compiled once for this processor and kept in PyTorch's folder of extensions."
    flags = ['-O3', '-march=native', '-mprefer-vector-width=512', '-ffast-math', '-fopenmp']
    return load('arsr_fused', [str(Path(__file__).with_suffix('.cpp'))], extra_cflags=flags)

class NormFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, groups, eps, act):
        x, y, mean, rstd = kernels().forward(x, weight, bias, groups, eps, act)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.act = act
        return y

    @staticmethod
    def backward(ctx, dy): return *kernels().backward(dy, *ctx.saved_tensors, ctx.act), None, None, None

class FusedNorm(nn.GroupNorm):
    act = False  # SiLU after it
    def forward(self, x): # (n,c,h,w) -> the same
        return NormFunction.apply(x, self.weight, self.bias, self.num_groups, self.eps, self.act)

class ConvFunction(torch.autograd.Function):
    "A 3x3 convolution; with the input shifted by each of nine offsets, dw = x^T dy."
    @staticmethod
    def forward(ctx, x, weight, bias):
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=1)

    @staticmethod
    def backward(ctx, dy):
        (x, weight), dy = ctx.saved_tensors, dy.contiguous(memory_format=torch.channels_last)
        one = [1, 1]
        dx, _, _ = torch.ops.aten.convolution_backward(
            dy, x, weight, None, one, one, one, False, [0, 0], 1, [True, False, False])
        h, w = x.shape[-2:]
        padded = F.pad(rearrange(x, 'n c h w -> n h w c'), (0, 0, 1, 1, 1, 1))
        dy = rearrange(dy, 'n o h w -> (n h w) o')
        shifted = (padded[:, i:i + h, j:j + w].flatten(0, 2) for i in range(3) for j in range(3))
        dw = torch.stack([part.t() @ dy for part in shifted])
        return dx, rearrange(dw, '(i j) c o -> o c i j', i=3), dy.float().sum(0)

class SmallConv(nn.Conv2d):
    def forward(self, x): # (n,c,h,w) -> (n,o,h,w)
        if x.shape[-1] > 8 or not torch.is_grad_enabled(): return super().forward(x)
        dtype = torch.get_autocast_dtype('cpu') if torch.is_autocast_enabled('cpu') else x.dtype
        with torch.autocast('cpu', enabled=False):
            return ConvFunction.apply(x.to(dtype), self.weight.to(dtype), self.bias.to(dtype))

def fuse_norms(net:nn.Module):
    for sequence in [m for m in net.modules() if isinstance(m, nn.Sequential)]:
        for i in range(len(sequence) - 1):
            if type(sequence[i]) is nn.GroupNorm and isinstance(sequence[i + 1], nn.SiLU):
                sequence[i].__class__, sequence[i].act, sequence[i + 1] = FusedNorm, True, nn.Identity()
    for m in net.modules():
        if type(m) is nn.GroupNorm: m.__class__ = FusedNorm

def fuse_attention(net:nn.Module):
    for m in net.modules():
        if isinstance(m, Attention): m.forward = sdpa_kernel(SDPBackend.MATH)(m.forward)

def fuse_convolutions(net:nn.Module):
    for m in net.modules():
        if type(m) is nn.Conv2d and m.kernel_size == (3, 3) and m.stride == (1, 1): m.__class__ = SmallConv

CHANGES = fuse_norms, fuse_attention, fuse_convolutions

def fuse(net:nn.Module)->nn.Module:
    for change in CHANGES: change(net)
    return net.to(memory_format=torch.channels_last)

if __name__ == '__main__':
    from arsr import ARSR
    from arsr.train import fast_arithmetic, machine
    from arsr.unet import DenoisingLoss
    net = ARSR.from_pretrained(device='cpu').parts['generator'].requires_grad_(True).train()
    batch, n = {'z': torch.randn(64, net.cfg.z, 32, 32)}, 5

    def step():
        with fast_arithmetic('cpu'): loss = DenoisingLoss()(net, batch)
        loss.backward()

    def report(name):
        step()
        start = time.time()
        for _ in range(n): step()
        print(f'{name:28} {64 * n / (time.time() - start):6.1f} images a second', flush=True)

    print(machine())
    report('as it is')
    net.to(memory_format=torch.channels_last)
    report('channels last')
    for change in CHANGES:
        change(net)
        report(change.__name__)
