"""Damage as disks, networks and people do it: each mutant has a name"""


def flip(rng, data, n=1):
    "`n` bits flipped"
    data = bytearray(data)
    for _ in range(n):
        at = rng.randrange(len(data))
        data[at] ^= 1 << rng.randrange(8)
    return bytes(data)


def flip_many(rng, data):
    "Ten bits flipped"
    return flip(rng, data, 10)


def flip_start(rng, data):
    "One bit of the first 64 bytes flipped"
    return flip(rng, data[:64]) + data[64:]


def flip_end(rng, data):
    "One bit of the last 64 bytes flipped"
    return data[:-64] + flip(rng, data[-64:])


def cut(rng, data):
    "Cut off anywhere"
    return data[:rng.randrange(len(data))]


def cut_end(rng, data):
    "The last 1 to 64 bytes are missing"
    return data[:-rng.randint(1, min(64, len(data)))]


def splice(rng, data):
    "A part is written over another one"
    size = rng.randint(1, max(1, len(data)//4))
    source, target = rng.randrange(len(data)), rng.randrange(len(data))
    part = data[source:source+size]
    return data[:target] + part + data[target+len(part):]


def leave_out(rng, data):
    "A part in the middle is missing"
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randint(1, max(1, len(data)//8)):]


def zero(rng, data):
    "A part is zeros, as after a power cut"
    size = rng.randint(1, max(1, len(data)//4))
    start = rng.randrange(len(data))
    size = min(size, len(data) - start)
    return data[:start] + bytes(size) + data[start+size:]


def zero_end(rng, data):
    "Everything from somewhere on is zeros"
    start = rng.randrange(len(data))
    return data[:start] + bytes(len(data) - start)


def inflate(rng, data):
    "Four bytes of the header are a giant number"
    at = rng.randrange(max(1, min(64, len(data) - 4)))
    giant = rng.choice([b'\xff\xff\xff\x7f', b'\x7f\xff\xff\xff', b'\xff\xff\xff\xff', b'\0\1\0\0'])
    return data[:at] + giant + data[at+4:]


def append(rng, data):
    "Bytes follow that do not belong there"
    return data + rng.randbytes(rng.randint(1, 600))


def empty(rng, data):
    "Nothing is left"
    return b''


def web_page(rng, data):
    "A page of a proxy instead"
    return b'<!DOCTYPE html><html><head><title>Log in</title></head><body>Proxy</body></html>'


def noise(rng, data):
    "Random bytes of the same length"
    return rng.randbytes(len(data))


def twice(rng, data):
    "The content two times"
    return data + data


MUTANTS = (flip, flip_many, flip_start, flip_end, cut, cut_end, splice, leave_out, zero, zero_end,
    inflate, append, empty, web_page, noise, twice)


def mutate(rng, data, mutants=MUTANTS):
    "`(name, mutant)` of these bytes; never the bytes themselves"
    while True:
        how = rng.choice(mutants)
        mutant = how(rng, data)
        if mutant != data: return how.__name__, mutant
