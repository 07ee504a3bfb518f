"""Trainings in processes of their own, which the tests start: python tests/processes.py killed|shared FOLDER [NUMBER]

killed: one training straight through, and one that is killed so often; shared: one by so many, and one alone."""
import os, random, signal, socket, sys, time
from itertools import count
from pathlib import Path
import numpy as np, torch
import arsr.train
from safetensors.torch import save
from arsr.data import SeededDataset
from arsr.field import FirstStage, FirstStageConfig
from arsr.train import Settings, fit

torch.set_num_threads(1)
arsr.train.hardware = lambda: dict(mixed_precision='no', layout=torch.contiguous_format, workers=0)
arsr.train.peak_rate = lambda device: 1e9  # not measured each time

# killed

class Points(SeededDataset):
    def sample(self, rng): return torch.from_numpy(rng.standard_normal(4, dtype=np.float32))

def noisy_loss(model, x):
    time.sleep(.005)  # so that there is a moment to be killed in
    return (model(x) - x.sum(1, keepdim=True) + .1 * torch.randn(len(x), 1)).square().mean()

def train(out, steps):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.BatchNorm1d(64), torch.nn.ReLU(), torch.nn.Dropout(.3),
                              torch.nn.Linear(64, 1))
    fit(net, noisy_loss, Points(), out, Settings(batch=4, warmup=2), steps=steps, every=1e9)

def killed_at(number):
    "A `save_file` that is killed halfway through its call of this number."
    calls = count(1)
    def write(tensors, path, metadata):
        last, content = next(calls) == number, save(tensors, metadata)
        Path(path).write_bytes(content[:len(content) // 2] if last else content)
        if last: os.kill(os.getpid(), signal.SIGKILL)
    return write

def killed(out, kills):
    arsr.train.SAVE_EVERY, start = 0, time.time()
    train(out/'straight', 10 * kills)
    duration, chance = time.time() - start, random.Random(kills)
    for k in range(kills):
        child = os.fork()
        if not child:
            if k % 3 == 0: arsr.train.save_file = killed_at(chance.randint(1, 5))
            train(out/'killed', 10 * kills)
            os._exit(0)
        if k % 3 != 0:
            time.sleep(duration * chance.uniform(0, 1.5 / kills))
            os.kill(child, signal.SIGKILL)
        print('killed' if os.waitpid(child, 0)[1] == signal.SIGKILL else 'had ended')
    train(out/'killed', 10 * kills)

# shared

class Pictures(SeededDataset):
    def sample(self, rng):
        def draw(*shape): return torch.from_numpy(rng.uniform(-1, 1, shape).astype(np.float32))
        return dict(image=draw(3, 16, 16), coord=draw(24, 2), cell=torch.full((24, 2), .1), rgb=draw(24, 3))

def squared_error(first, batch): # smooth: where an absolute one changes its sign, rounding would decide
    return (first(batch['image'], batch['coord'], batch['cell']) - batch['rgb']).square().mean()

def train_first(out):
    torch.manual_seed(0)
    cfg = FirstStageConfig(ch=8, mult=(1, 2), n_res=1, z=4, latent='norm', noise=0., hidden=(16,))
    fit(FirstStage(cfg), squared_error, Pictures(), out, Settings(batch=6, warmup=1), steps=4, every=1e9)

def shared(out, processes):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    for rank in range(processes):
        if os.fork(): continue
        os.environ |= dict(RANK=f'{rank}', LOCAL_RANK=f'{rank}', WORLD_SIZE=f'{processes}', MASTER_ADDR='127.0.0.1',
                           MASTER_PORT=f'{port}', ACCELERATE_USE_CPU='true')
        train_first(out/'shared')
        os._exit(0)
    for _ in range(processes): assert os.wait()[1] == 0
    train_first(out/'alone')

if __name__ == '__main__':
    what, folder, number = sys.argv[1:]
    dict(killed=killed, shared=shared)[what](Path(folder), int(number))
