"""The home page's pictures, and the card that a link to the site shows, drawn with the weights that ship.

    python .ci/pictures.py
"""
from pathlib import Path
import torch, torch.nn.functional as F
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

def growing(field, sizes, gap=8): # an `ImageField`, long sides in pixels, pixels between pictures
    "The first image of a field at several sizes on one base line, pixel for pixel."
    pictures = [field[0].render(size=s)[0] for s in sizes]
    height = max(x.shape[-2] for x in pictures)
    padded = [F.pad(x, (0, gap, height - x.shape[-2], 0), value=1.) for x in pictures]
    return Image.fromarray(to_bytes(torch.cat(padded, -1)[..., :-gap]))

def approaching(field, centre:tuple, spans, side:int=256)->torch.Tensor: # (k,3,side,side)
    "Windows of the first image around a point, in [0,1], each rendered for exactly its pixels."
    corners = [[min(max(c - span / 2, 0), 1 - span) for c in centre] for span in spans]
    boxes = [(top, left, top + span, left + span) for (top, left), span in zip(corners, spans)]
    return torch.cat([field[0].render(size=side, window=box) for box in boxes])

def write_hero(nine, path, seed=3, eye=(.53, .6)): # an `ImageField`; which of it is looked at, and where
    "Nine new portraits above; below, one of them at several sizes, and from nearer and nearer."
    above, field = sheet(nine.render(size=152), columns=9), nine[seed]
    left = growing(field, (16, 32, 64, 128, 256))
    right = sheet(approaching(field, eye, (1., .3, .08)), columns=3)
    whole = Image.new('RGB', (above.width, above.height + 280), 'white')
    whole.paste(above, (0, 0))
    for part, x in ((left, 0), (right, above.width - right.width)):
        whole.paste(part, (x, above.height + 24))
    whole.save(path, quality=90)

def write_portrait(field, path, seed=3, eye=(.53, .6)): # as for `write_hero`
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
