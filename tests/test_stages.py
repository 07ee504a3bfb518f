"Stages as rows of a table: what each needs and leaves, and that the runner goes on, in any order that makes sense."
import json, shutil, tarfile, zipfile
from dataclasses import replace
import pytest, torch
from PIL import Image
import arsr.train
from safetensors.torch import load_file
from arsr.coords import resize
from arsr.data import Images, NativeCrops, Shards, downsample
from arsr.field import FirstStageConfig
from arsr.lab.recipes import PRESETS, Preset, for_data
from arsr.lab.stages import (
    EXTRAS, PAPER, Run, alignment_curve, assemble, cached, find_stage, lr_view, renders_stamp, starting_weights,
    train_stage)
from arsr.pipeline import ARSR
from arsr.train import Settings, low_resolution
from arsr.unet import DenoiserConfig, UNetConfig
from test_refining import write_pictures

CONFIG = FirstStageConfig(ch=8, mult=(1, 2, 2), n_res=1, z=4, latent='norm', noise=.1, hidden=(16, 16))
UNET = UNetConfig(ch=8, mult=(1,), n_res=1, attn=(), dropout=.1)
NET = DenoiserConfig(UNET, z=4, schedule='cosine', prediction_type='v')
NAMES = list(dict.fromkeys(row.name for row in PAPER + EXTRAS))
ORDER = {'generator': ['first', 'latent', 'align', 'control', 'guide', 'distill', 'decoder', 'finish', 'fast'],
         'upscaler': ['first', 'latent', 'align', 'control', 'guide', 'refine', 'finish', 'fast', 'restore', 'decoder']}

def preset(task):
    few = {name: Settings(batch=2, warmup=1) for name in NAMES}
    return Preset(task, CONFIG, replace(NET, conditional=task == 'upscaler'), base=32, sizes=(32, 48), crop=16,
                  queries=32, held_out=.3, trajectories=3, w_max=3, perceptual=0., settings=few)

@pytest.fixture(scope='module')
def root(tmp_path_factory, drawings):
    "Two toys, each after all of its stages."
    root = tmp_path_factory.mktemp('stages')
    write_pictures(root/'pictures', drawings, 8)
    plain = dict(mixed_precision='no', layout=torch.contiguous_format, workers=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arsr.train, 'hardware', lambda: plain)
        for task, stages in ORDER.items():
            patch.setitem(PRESETS, f'toy-{task}', preset(task))
            for stage in stages:
                for steps in ((1, 9) if stage == 'latent' else (2,)):
                    train_stage(f'toy-{task}', stage, root/task, data=str(root/'pictures'), steps=steps)
        yield root

# the tables

def test_the_papers_stages_stand_apart():
    assert [row.name for row in PAPER] == ['first', 'latent', 'align', 'control']
    assert not {row.name for row in PAPER} & {row.name for row in EXTRAS}

@pytest.mark.parametrize('task', ORDER)
def test_what_a_stage_needs_is_a_stage(task):
    for name in ORDER[task]:
        for need in find_stage(name, task).needs: assert find_stage(need, task).task in ('', task)

def test_no_stage_twice():
    rows = [(row.name, task) for row in PAPER + EXTRAS for task in ORDER if row.task in ('', task)]
    assert len(rows) == len(set(rows))

def test_an_unknown_stage_refused(refuses):
    with refuses("unknown stage 'paint'", f"choose one of {', '.join(NAMES)}"): find_stage('paint', 'generator')

@pytest.mark.parametrize('stage, task, other', [
    ('distill', 'upscaler', 'emoji-generate'), ('refine', 'generator', 'emoji-upscale'),
    ('restore', 'generator', 'emoji-upscale')])
def test_a_stage_of_the_other_task_refused(stage, task, other, refuses):
    with refuses(f"have a stage '{stage}'", f'use a preset such as {other}'): find_stage(stage, task)

# the runner

@pytest.mark.parametrize('task', ORDER)
def test_every_stage_leaves_its_weights_its_checkpoint_and_its_line(root, task):
    log = json.loads((root/task/'training.json').read_text())
    titles = [name if name in ('first', 'decoder') else f'{task} {name}' for name in ORDER[task]]
    assert list(log) == sorted(titles, key=list(log).index) and len(log) == len(titles)
    run = Run(for_data(PRESETS[f'toy-{task}'], str(root/'pictures')), root/task)
    for name in ORDER[task]:
        row = find_stage(name, task)
        output = row.output.format(task=task, run=run)
        assert run.file(output).exists() and (run.out/(row.folder or output)/'checkpoint.safetensors').exists()
        assert all(x.isfinite().all() for x in load_file(run.file(output)).values())
    assert not list(root.rglob('*.part*'))

@pytest.mark.parametrize('task, parts', [
    ('generator', {'first', 'generator', 'distilled', 'fast'}),
    ('upscaler', {'first', 'upscaler', 'refiner', 'refiner_fast', 'restorer'})])
def test_a_model_is_put_together(root, task, parts):
    pipe = ARSR.from_pretrained(root/task, 'cpu')
    assert {*pipe.parts} == parts and pipe.meta['name'] == 'toy'
    field = pipe.generate(1, seed=0) if task == 'generator' else pipe.upscale(torch.rand(3, 8, 8), seed=0)
    assert field.render(size=20).isfinite().all()

def test_the_model_has_the_weights_of_the_latest_stage(root):
    for task in ORDER:
        files = [root/task/f'{name}.safetensors' for name in (task, f'{task}-guide', f'{task}-align')]
        model, latest, aligned = map(load_file, files)
        assert all(torch.equal(model[k], latest[k]) for k in model)
        assert any(not torch.equal(model[k], aligned[k]) for k in model)

def test_a_student_of_another_generator_is_left_out(root, tmp_path):
    for path in (root/'generator').iterdir():
        if path.is_file(): (tmp_path/path.name).write_bytes(path.read_bytes())
    (tmp_path/'generator-guide.safetensors').unlink()
    model = assemble(for_data(PRESETS['toy-generator'], str(root/'pictures')), tmp_path, 'toy')
    assert 'distilled' not in model.parts and 'generator' in model.parts

def test_decoders_alone_change_in_finish_and_decoder(root):
    "So the latents, and what was trained on them, stay valid: there is one cache of each kind."
    for task, kinds in (('generator', ['z']), ('upscaler', ['cond', 'z'])):
        names = sorted(path.name.split('-')[1] for path in (root/task).glob('latents-*.f16'))
        assert names == kinds

def test_snapshots_double(root):
    run = Run(PRESETS['toy-generator'], root/'generator')
    names = sorted(p.name for p in run.out.glob('generator-after-*'))
    assert names == ['generator-after-1.safetensors', 'generator-after-9.safetensors']

def test_the_curve_tells_every_stage_on_held_out_pictures(root):
    for task in ORDER:
        curve = json.loads((root/task/f'alignment-{task}.json').read_text())
        assert set(curve) == {'alphas_cumprod', 'pictures', 'latent', 'align', 'control'}
        assert curve['pictures'] >= 1
        assert len(curve['latent']) == len(curve['align']) == len(curve['alphas_cumprod']) == 20

def test_no_held_out_picture_no_curve(root, tmp_path):
    preset = replace(PRESETS['toy-generator'], held_out=0., data=str(root/'pictures'))
    assert alignment_curve(Run(preset, root/'generator')) == {}

def test_a_stage_goes_on_and_has_nothing_left_to_do(root):
    again = train_stage('toy-upscaler', 'restore', root/'upscaler', data=str(root/'pictures'), steps=2)
    assert again['step'] == 2

def test_a_stage_may_begin_with_any_weights(root, tmp_path, refuses):
    "The first stage goes on from another one's weights: a step at a learning rate of zero leaves them as they are."
    few = {'first': Settings(lr=0., batch=2, warmup=1, weight_decay=0.)}
    more = dict(data=str(root/'pictures'), steps=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, 'toy-generator', replace(PRESETS['toy-generator'], settings=few))
        given = root/'generator'/'first.safetensors'
        train_stage('toy-generator', 'first', tmp_path/'on', **more, start=given)
        train_stage('toy-generator', 'first', tmp_path/'new', **more)
        train_stage('toy-generator', 'first', tmp_path/'part', **more, start=root/'upscaler')  # a folder of weights
        with refuses('missing weights file', 'nothing.safetensors'):
            train_stage('toy-generator', 'first', tmp_path/'no', **more, start=tmp_path/'nothing.safetensors')
        with refuses("does not fit the stage 'first' of toy-generator", "the first is 'decoder."):
            train_stage('toy-generator', 'first', tmp_path/'no', **more, start='portraits')
        with refuses("no weights called 'portrait'"):
            train_stage('toy-generator', 'first', tmp_path/'no', **more, start='portrait')
    other = load_file(root/'upscaler'/'first.safetensors')
    before, on, new, part = (load_file(p) for p in (
        given, *(tmp_path/k/'first.safetensors' for k in ('on', 'new', 'part'))))
    weights = [k for k in before if 'norm.running' not in k and before[k].is_floating_point()]
    assert all(torch.equal(before[k], on[k]) and torch.equal(other[k], part[k]) for k in weights)
    assert any(not torch.equal(before[k], new[k]) for k in weights)

def test_a_stage_takes_its_own_part_of_weights():
    outputs = 'first', 'generator-align', 'refiner-finish', 'refiner_fast', 'distilled-{run.generator_stamp}'
    names = [starting_weights('emoji', output).name.removesuffix('.safetensors') for output in outputs]
    assert names == ['first', 'generator', 'refiner', 'refiner_fast', 'distilled']

@pytest.mark.parametrize('stage', ['latent', 'refine', 'fast'])
def test_an_earlier_stage_is_asked_for_by_name(root, stage, tmp_path, refuses):
    with refuses('holds no first.safetensors', 'run --stage first into the same folder before'):
        train_stage('toy-upscaler', stage, tmp_path/'new', data=str(root/'pictures'), steps=1)
    assert not (tmp_path/'new').exists()

def test_other_pictures_in_the_same_folder_refused(root, drawings, tmp_path, refuses):
    write_pictures(tmp_path/'other', drawings, 3)
    with refuses('begun with other inputs (pictures)', 'another folder'):
        train_stage('toy-generator', 'first', root/'generator', data=str(tmp_path/'other'), steps=1)

def test_another_picture_of_the_same_name_and_size_refused(root, drawings, tmp_path, refuses):
    folder, run = tmp_path/'pictures', tmp_path/'run'
    folder.mkdir()
    for k in range(5): Image.new('RGB', (32, 32), (40 * k, 90, 90)).save(folder/f'{k}.bmp')
    train_stage('toy-generator', 'first', run, data=str(folder), steps=1)
    renders, = run.glob('renders-*')
    Image.new('RGB', (32, 32), 'red').save(folder/'0.bmp')
    for k in range(1, 5): Image.new('RGB', (32, 32), (40 * k, 90, 91)).save(folder/f'{k}.bmp')
    with refuses('first was begun with other inputs (pictures)', 'another folder'):
        train_stage('toy-generator', 'first', run, data=str(folder), steps=2)
    shutil.rmtree(run/'first')
    assert train_stage('toy-generator', 'first', run, data=str(folder), steps=1)['step'] == 1
    assert len({*run.glob('renders-*')} - {renders}) == 1  # made anew, of the new pictures

def written(root, kind, shade):
    "Twenty pictures, of which one has a shade, as a source of a kind."
    (root/'pictures').mkdir(parents=True)
    for k in range(20): Image.new('L', (8, 8), shade if k == 18 else k).save(root/'pictures'/f'{k:02}.bmp')
    if kind is NativeCrops: return NativeCrops(Images(root/'pictures'), 8)
    if kind is Images: return Images(root/'pictures')
    paths = sorted((root/'pictures').iterdir())
    if kind is Shards:
        with tarfile.open(root/'0.tar', 'w') as tar:
            for path in paths: tar.add(path, path.name)
        return Shards(root)
    with zipfile.ZipFile(root/'0.zip', 'w') as archive:
        for path in paths: archive.write(path, path.name)
    return Images(root/'0.zip')

@pytest.mark.parametrize('kind', [Images, zipfile.ZipFile, Shards, NativeCrops])
def test_the_hash_of_pictures_is_of_every_one_of_them_wherever_they_lie(kind, tmp_path):
    a, b, c = (renders_stamp(PRESETS['emoji-upscale'], written(tmp_path/name, kind, shade))
               for name, shade in (('a', 99), ('b', 99), ('c', 100)))
    assert a == b != c

def changed(run, stage, **fields):
    "What a stage finds changed if these fields of the preset are others."
    row, other = find_stage(stage, 'generator'), Run(replace(run.preset, **fields), run.out)
    before, after = run.inputs(row), other.inputs(row)
    return [name for name in before if before[name] != after[name]]

def test_a_stage_depends_on_what_it_uses(root):
    run = Run(for_data(PRESETS['toy-generator'], str(root/'pictures')), root/'generator')
    other = replace(run.preset.denoiser, prediction_type='eps')
    assert changed(run, 'align', w_max=2) == changed(run, 'latent', denoiser=other) == ['configuration']
    assert changed(run, 'latent', w_max=2) == changed(run, 'first', denoiser=other, factor=8) == []
    assert changed(run, 'latent', settings={}, latent_weight=1.) == []
    assert changed(run, 'decoder', sizes=(32, 40)) == ['configuration', 'pictures']
    names = {stage: [*run.inputs(find_stage(stage, 'generator'))][2:] for stage in ORDER['generator']}
    trained = ['encoder', 'generator-latent']
    assert names == dict(first=[], latent=['encoder'], align=[*trained, 'first'], control=trained, guide=trained,
                         distill=[], decoder=['encoder'], finish=['encoder', 'generator-guide'],
                         fast=['encoder', 'first'])

def test_alignment_does_not_go_on_over_another_decoder(root, refuses):
    with refuses('generator-align was begun with other inputs (first)', 'delete this one'):
        train_stage('toy-generator', 'align', root/'generator', data=str(root/'pictures'), steps=3)

def test_what_was_trained_with_another_encoder_is_left_out_and_does_not_go_on(root, tmp_path, refuses, capsys):
    run, more = tmp_path/'run', dict(data=str(root/'pictures'))
    shutil.copytree(root/'generator', run)
    train_stage('toy-generator', 'first', run, **more, steps=3)
    assert 'left out of the model: fast.safetensors, generator-align.safetensors' in capsys.readouterr().out
    assert {*ARSR.from_pretrained(run, 'cpu').parts} == {'first'}
    with refuses('generator-latent was begun with other inputs (encoder)'):
        train_stage('toy-generator', 'latent', run, **more, steps=10)
    with refuses('decoder was begun with other inputs (encoder)'):
        train_stage('toy-generator', 'decoder', run, **more, steps=10)
    with refuses('holds generator-latent.safetensors of another encoder', 'run --stage latent'):
        train_stage('toy-generator', 'align', run, **more, steps=10)
    shutil.rmtree(run/'generator-latent')
    train_stage('toy-generator', 'latent', run, **more, steps=1)
    assert {*ARSR.from_pretrained(run, 'cpu').parts} == {'first', 'generator'}
    model, latest = (load_file(run/f'{name}.safetensors') for name in ('generator', 'generator-latent'))
    assert all(torch.equal(model[k], latest[k]) for k in latest)

def test_a_cache_is_made_once_and_appears_whole(tmp_path):
    path, made = tmp_path/'deep'/'cache.safetensors', []
    def make():
        made.append(1)
        return {'z': torch.ones(3)}
    for _ in range(2): assert torch.equal(cached(path, make)['z'], torch.ones(3))
    assert made == [1]
    def broken(): raise RuntimeError('no')
    with pytest.raises(RuntimeError): cached(tmp_path/'other.safetensors', broken)
    assert not list(tmp_path.glob('*other*'))

def test_portraits_from_the_first_stage_to_a_face(tmp_path, monkeypatch):
    "Both presets with tiny networks, on a few portraits of the endless source."
    plain = dict(mixed_precision='no', layout=torch.contiguous_format, workers=0)
    monkeypatch.setattr(arsr.train, 'hardware', lambda: plain)
    for name in ('portraits-generate', 'portraits-upscale-8x'):
        p = PRESETS[name]
        assert p.data == 'portraits' and p.room == 0 and p.edges == .5
        unet = replace(UNET, classes=p.denoiser.unet.classes, attributes=p.denoiser.unet.attributes)
        denoiser = replace(p.denoiser, unet=unet, z=4)
        few = {stage: Settings(batch=2, warmup=1) for stage in NAMES}
        monkeypatch.setitem(PRESETS, name, replace(
            p, first=CONFIG, denoiser=denoiser, base=64, sizes=(32, 48), crop=32, queries=32, pictures=7, settings=few))
        for stage in ('first', 'latent', 'align'):
            if stage != 'first' or name == 'portraits-generate': train_stage(name, stage, tmp_path, steps=1)
    assert not list(tmp_path.glob('renders-*'))
    train_stage('portraits-generate', 'latent', tmp_path, steps=1)  # what the upscaler needs to know is not lost
    assert [p.stat().st_size for p in tmp_path.glob('latents-*.f16')] == [7 * 4 * 16 * 16 * 2] * 2  # not mirrored
    pipe = ARSR.from_pretrained(tmp_path, 'cpu')
    assert pipe.generate(1, category='micah', seed=0, steps=1).render(size=20).shape == (1, 3, 20, 20)
    assert pipe.generate(1, seed=0, steps=1, family='micah', glasses='round').render(size=20).isfinite().all()
    for side in (16, 12):  # every face is enlarged to the size of the training
        x = torch.rand(1, 3, side, side)
        expected = pipe.first.encode(2 * resize(x, (64, 64), 'nearest') - 1) / pipe.upscaler.scaling_factor
        assert torch.allclose(pipe.condition(x), expected, atol=1e-4)

def test_lr_inputs_of_several_sizes_are_enlarged_by_repeating_pixels():
    p, x = PRESETS['portraits-upscale-8x'], torch.rand(2, 3, 128, 128)
    for i, side in enumerate((12, 24, 16, 16, 16, 12)):
        lr = lr_view(p, x, i)
        assert torch.equal(lr, resize(downsample(x, 128 / side), (128, 128), 'nearest'))
        assert len(lr[0, 0, 0].unique()) == side
    assert torch.equal(lr_view(PRESETS['emoji-upscale'], x, 3), low_resolution(x, 4))
