"""Make the pictures, spoken words and captions of the data set `senses`: serket/data/generate/senses.npz.

npm install @iconify-json/noto @iconify-json/noto-v1 @iconify-json/twemoji @iconify-json/fluent-emoji \
    @iconify-json/fluent-emoji-flat @iconify-json/emojione @lobehub/fluent-emoji-3d
pip install resvg_py espeakng-loader pillow
python benchmarks/senses_data.py --drawings node_modules [--out serket/data/generate/senses.npz]

Sources and licences: serket/data/senses.md.
"""

import argparse
import ctypes
import io
import json
from math import gcd
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

SIDE, RATE, LOUDEST = 96, 16000, 255
FLUENT = "@lobehub/fluent-emoji-3d"
# The last two are drawn by other hands than all the rest, and only tested on; the one before is for validation.
FAMILIES = ("noto", "fluent-emoji", "fluent-emoji-flat", FLUENT, "noto-v1", "emojione", "twemoji")
# Name, icon, code point of the icon, and what it is called: the last three are only tested on.
THINGS = {
    "apple": ("red-apple", "1f34e", "apple, red apple, ripe apple, sweet apple, fruit off the apple tree, "
              "crunchy fruit for making cider, round fruit with a core and pips, orchard fruit"),
    "banana": ("banana", "1f34c", "banana, ripe banana, yellow banana, peeled banana, fruit a monkey likes, "
               "curved yellow fruit, long tropical fruit in a peel, fruit that comes in bunches"),
    "bicycle": ("bicycle", "1f6b2", "bicycle, bike, push bike, cycle, two-wheeler with pedals, "
                "thing to pedal to work, mountain bike, set of handlebars and a saddle on two wheels"),
    "book": ("closed-book", "1f4d5", "book, novel, hardback, volume from the library, paperback, "
             "story bound between two covers, textbook, something to read page by page"),
    "bus": ("bus", "1f68c", "bus, city bus, coach, school bus, double-decker, "
            "public transport on the road, omnibus, vehicle that stops for many passengers"),
    "camera": ("camera", "1f4f7", "camera, photo camera, digital camera, camera with a flash, SLR, "
               "device that takes photographs, thing with a lens and a shutter, photographer's tool"),
    "candle": ("candle", "1f56f-fe0f", "candle, wax candle, burning candle, lit candle, taper, "
               "wax with a wick, candlelight, small flame for when the power is out"),
    "car": ("automobile", "1f697", "car, automobile, motor car, family car, sedan, "
            "hatchback, vehicle one drives to the office, four-wheeled motor vehicle"),
    "clock": ("alarm-clock", "23f0", "clock, alarm clock, bedside clock, ringing clock, timepiece, "
              "thing that wakes one in the morning, hands that show the hour, dial that tells the time"),
    "coffee": ("hot-beverage", "2615", "coffee, cup of coffee, hot coffee, mug of coffee, espresso, "
               "hot drink for the morning, cappuccino, steaming cup with caffeine"),
    "glasses": ("glasses", "1f453", "glasses, pair of glasses, reading glasses, eyeglasses, spectacles, "
                "lenses in a frame, thing worn on the nose to see well, eyewear"),
    "guitar": ("guitar", "1f3b8", "guitar, electric guitar, rock guitar, six-string, acoustic guitar, "
               "instrument with strings and frets, thing to strum chords on, instrument of a rock band"),
    "hammer": ("hammer", "1f528", "hammer, claw hammer, carpenter's hammer, heavy hammer, mallet, "
               "tool for driving nails, thing to hit a nail with, tool with a steel head"),
    "key": ("key", "1f511", "key, door key, house key, front door key, latchkey, "
            "thing that opens a lock, small metal thing for the lock, piece that unlocks the door"),
    "pencil": ("pencil", "270f-fe0f", "pencil, sharp pencil, lead pencil, drawing pencil, pencil with an eraser, "
               "thing to sketch with, writing tool of wood and graphite, crayon"),
    "scissors": ("scissors", "2702-fe0f", "scissors, pair of scissors, sharp scissors, kitchen scissors, shears, "
                 "two blades for cutting paper, thing to cut cloth with, tool a hairdresser snips with"),
    "shoe": ("running-shoe", "1f45f", "shoe, running shoe, sports shoe, sneaker, trainer, "
             "footwear with laces, thing worn on the foot for jogging, leather boot"),
    "telephone": ("telephone", "260e-fe0f", "telephone, phone, red telephone, landline phone, telephone set, "
                  "thing to call somebody on, receiver and dial, handset for a long-distance call"),
    "television": ("television", "1f4fa", "television, TV, TV set, colour television, telly, "
                   "screen for watching the news, screen that shows programmes, "
                   "thing to watch films on in the evening"),
    "umbrella": ("umbrella", "2602-fe0f", "umbrella, open umbrella, folding umbrella, rain umbrella, parasol, "
                 "thing to hold up in the rain, brolly, shelter from rain on a stick"),
}  # fmt: skip
PHRASES = ("{}", "this is {}", "I can see {}", "look, {}", "a photo of {}", "here we have {}",
           "somebody left {} behind", "on the table there was {}", "she wanted to buy {}")  # fmt: skip
BARE = ("coffee", "espresso", "footwear", "eyewear", "candlelight", "glasses", "scissors", "shears", "spectacles",
        "lenses", "public", "hands", "wax with", "two", "hot", "kitchen scissors", "sharp scissors", "fruit",
        "eyeglasses", "reading glasses", "something", "hot coffee", "curved")  # fmt: skip
# Voice, speaker, pitch and words a minute: the last four speakers and accents are only tested on, the two before are
# for validation.
VOICES = (
    ("en-us", "m1", 45, 150), ("en-us", "f2", 55, 165), ("en", "m3", 40, 140), ("en", "f4", 60, 155),
    ("en-gb-x-rp", "m7", 50, 170), ("en-gb-scotland", "f1", 50, 150), ("en-029", "m4", 45, 145),
    ("en-us", "klatt2", 50, 160), ("en-gb-x-gbclan", "f3", 45, 160), ("en-gb-x-gbcwmd", "m5", 55, 150),
    ("en-us-nyc", "Andrea", 50, 155), ("en", "Alex", 45, 160), ("en-us", "steph", 60, 145), ("en-029", "m8", 40, 155),
)  # fmt: skip
TAKES = ((0, 0), (12, 35))
"""Each voice says a word twice: so much higher, and so many words a minute faster."""


def drawings(folder):
    """Things by families, RGBA, uint8; colours are multiplied by opacity, so that edges blend with any ground."""
    import resvg_py
    from PIL import Image

    made = np.zeros((len(THINGS), len(FAMILIES), SIDE, SIDE, 4), np.uint8)
    for j, family in enumerate(FAMILIES):
        icons = {} if family == FLUENT else json.loads((folder / "@iconify-json" / family / "icons.json").read_text())
        for i, (icon, code, _) in enumerate(THINGS.values()):
            if family == FLUENT:
                image = Image.open(folder / FLUENT / "assets" / f"{code}.webp")
            else:
                one = icons["icons"][icons.get("aliases", {}).get(icon, {}).get("parent", icon)]
                width, height = (one.get(side, icons.get(side, 16)) for side in ("width", "height"))
                svg = (
                    f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                    f'viewBox="0 0 {width} {height}" width="384" height="384">{one["body"]}</svg>'
                )
                image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg))))
            made[i, j] = np.asarray(image.convert("RGBa").resize((SIDE, SIDE), Image.LANCZOS))
    return made & np.uint8(0xFC) | made >> np.uint8(6)  # six bits a channel are enough, and take half the room


class Voice:
    """espeak-ng through ctypes."""

    def __init__(self):
        import espeakng_loader

        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        self.rate = self.library.espeak_Initialize(2, 0, espeakng_loader.get_data_path().encode(), 0)
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self.heard = []
        self.callback = kind(self._hear)
        self.library.espeak_SetSynthCallback(self.callback)

    def _hear(self, samples, count, _):
        if samples and count:
            self.heard.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(self, word, voice, speaker, pitch, speed):
        """Samples at 16 kHz, float, without the silence around them."""
        if self.library.espeak_SetVoiceByName(f"{voice}+{speaker}".encode()):
            raise SystemExit(f"espeak-ng has no voice {voice}+{speaker}")
        self.library.espeak_SetParameter(1, speed, 0)
        self.library.espeak_SetParameter(3, pitch, 0)
        self.heard.clear()
        text = word.encode()
        self.library.espeak_Synth(text, len(text) + 1, 0, 1, 0, 1, None, None)
        self.library.espeak_Synchronize()
        wave = np.concatenate(self.heard).astype(float)
        common = gcd(RATE, self.rate)
        wave = resample_poly(wave, RATE // common, self.rate // common)
        loud = np.flatnonzero(abs(wave) > 0.02 * abs(wave).max())
        return wave[loud[0] : loud[-1] + 1]


def companded(wave):
    """mu-law, eight bits: zero is 128."""
    share = wave / abs(wave).max() * 0.95
    return np.round(np.sign(share) * np.log1p(LOUDEST * abs(share)) / np.log1p(LOUDEST) * 127 + 128).astype(np.uint8)


def called(name):
    """A name with its article, if it takes one."""
    bare = name.startswith(BARE) and name != "hot drink for the morning"
    return name if bare else f"{'an' if name[0] in 'aeiouS' and not name.startswith('s') else 'a'} {name}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--drawings", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("serket/data/generate/senses.npz"))
    given = parser.parse_args()
    voice = Voice()
    waves = [companded(voice.say(word, *voice_of, pitch + up, speed + faster))
             for word in THINGS for *voice_of, pitch, speed in VOICES for up, faster in TAKES]  # fmt: skip
    names = [[called(name.strip()) for name in words.split(",")] for *_, words in THINGS.values()]
    np.savez_compressed(
        given.out,
        thing=np.array(list(THINGS)),
        drawing=drawings(given.drawings),
        sound=np.concatenate(waves),
        length=np.reshape([len(wave) for wave in waves], (len(THINGS), len(VOICES), len(TAKES))),
        name=np.array(names),
        phrase=np.array(PHRASES),
    )
    print(f"{given.out}: {given.out.stat().st_size / 2**20:.1f} MB, longest word {max(map(len, waves)) / RATE:.2f} s")


if __name__ == "__main__":
    main()
