"""The home page's pictures, and the card that a link to the site shows, drawn with the weights that ship.

    python .ci/pictures.py
"""
from pathlib import Path
import torch
from PIL import Image, ImageDraw, ImageFont
from arsr import ARSR
from arsr.field import sheet, to_bytes
from arsr.lab.cards import write_answers

IMAGES = Path(__file__).resolve().parent.parent/'nbs'/'images'
WORDS = {'arsr': (72, 464, '#1f2933'), 'Images as continuous functions: generate or upscale once, look at any size':
         (30, 562, '#52606d')}  # height of the letters and place from above in pixels, colour

def card(portraits): # (24,3,150,150) in [0,1] -> 1,200 x 630
    "Portraits in three rows, and below them what this is."
    whole = Image.new('RGB', (1200, 630), 'white')
    whole.paste(sheet(portraits, columns=8))
    for words, (height, top, colour) in WORDS.items():
        ImageDraw.Draw(whole).text((30, top), words, colour, ImageFont.load_default(height))
    return whole

def row(pictures, gap=8): # tensors (3,h,w) in [0,1], pixels between them -> RGBA
    "Pictures of any size on one base line; between and above them one sees what is behind."
    pictures = [Image.fromarray(to_bytes(x)) for x in pictures]
    whole = Image.new('RGBA', (sum(x.width + gap for x in pictures) - gap, max(x.height for x in pictures)))
    for k, x in enumerate(pictures):
        whole.paste(x, (sum(y.width + gap for y in pictures[:k]), whole.height - x.height))
    return whole

def approaching(field, centre:tuple, spans, side:int=256)->torch.Tensor: # (k,3,side,side)
    "Windows of the first image around a point, in [0,1], each rendered for exactly its pixels."
    corners = [[min(max(c - span / 2, 0), 1 - span) for c in centre] for span in spans]
    boxes = [(top, left, top + span, left + span) for (top, left), span in zip(corners, spans)]
    return torch.cat([field[0].render(size=side, window=box) for box in boxes])

def write_hero(nine, path, seed=4, eye=(.525, .5)): # an `ImageField`; which of it is looked at, and where
    "Nine new portraits above; below, one of them at several sizes, and from nearer and nearer."
    field = nine[seed]
    above = row(nine.render(size=152), gap=0)
    left = row([field.render(size=size)[0] for size in (16, 32, 64, 128, 256)])
    right = row(approaching(field, eye, (1., .3, .08)))
    whole = Image.new('RGBA', (above.width, above.height + 280))
    whole.paste(above)
    for part, x in ((left, 0), (right, above.width - right.width)): whole.paste(part, (x, above.height + 24))
    whole.save(path, quality=90)

def write_portrait(field, path, seed=4, eye=(.525, .5)): # as for `write_hero`
    "One new portrait, whole and seven times nearer: what the live page shows before it draws."
    sheet(approaching(field[seed], eye, (1., .14), side=400), columns=2).save(path, quality=90)

if __name__ == '__main__':
    pipe = ARSR.from_pretrained('portraits')
    field = pipe.generate(64, seed=0)
    sheet(field.render(size=112), columns=8).save(IMAGES/'portraits.webp', quality=90)
    card(field[:24].render(size=150)).save(IMAGES/'card.jpg', quality=88)
    write_hero(field[:9], IMAGES/'hero.webp')
    write_portrait(field, IMAGES/'portrait.webp')
    write_answers(pipe, IMAGES/'answers.webp')
