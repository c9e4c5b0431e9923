# SPDX-License-Identifier: Apache-2.0
"""What the whole programs of the root disk work on, the same for native, Guise and QEMU: a text, a C file, SQL, a video; and the script that runs
them. One tar file, functions of fixed seeds."""

import math
import os
import random
import shutil
import tarfile

HERE = os.path.dirname(os.path.abspath(__file__))


def _text(mib):
    r = random.Random(7)
    words = ["".join(r.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(r.randint(2, 9))) for _ in range(4000)]
    size, lines = 0, []
    while size < mib << 20:
        lines.append(" ".join(r.choice(words) for _ in range(12)) + "\n")
        size += len(lines[-1])
    return "".join(lines).encode()


def _expression(r, depth):
    if depth == 0:
        return r.choice(["a", "b", "c", "n->key", "n->v[a & 3]", "(long)n->tag", "t[b & 15]", str(r.randint(1, 999))])
    return f"({_expression(r, depth - 1)} {r.choice('+-*^&|')} {_expression(r, r.randint(0, depth - 1))})"


def _statement(r, k):
    kind = r.randint(0, 4)
    if kind == 0:
        return f"\tfor (long i = 0; i < (a & 63); i++)\n\t\tt[i & 15] += {_expression(r, 2)};"
    if kind == 1:
        return f"\tif ({_expression(r, 1)} > {_expression(r, 1)})\n\t\tc += {_expression(r, 2)};\n\telse\n\t\tb = {_expression(r, 1)};"
    if kind == 2:
        cases = [f"\tcase {j}:\n\t\ta ^= {_expression(r, 1)};\n\t\tbreak;" for j in range(6)]
        return "\n".join([f"\tswitch ({_expression(r, 1)} & 7) {{", *cases, "\t}"])
    if kind == 3:
        return f"\twhile (n->next && n->key != {_expression(r, 1)}) {{\n\t\tn = n->next;\n\t\tc += n->v[{r.randint(0, 3)}];\n\t}}"
    return f"\tg{k} += {_expression(r, 2)};\n\tn->w = n->w * {r.randint(2, 9)} + (double)c;"


def _c_source(functions):
    r = random.Random(11)
    out = ["struct node { struct node *next, *prev; long key; unsigned char tag; double w; int v[4]; };"]
    for k in range(functions):
        out.append(f"static long g{k};\nlong f{k}(struct node *n, long a, long b)\n{{\n\tlong t[16] = {{0}}, c = a - b;\n\tc += {_expression(r, 2)};")
        out += [_statement(r, k) for _ in range(r.randint(3, 7))]
        if k:
            out.append(f"\tif (c & 1)\n\t\tc += f{r.randint(0, k - 1)}(n, b, c);")
        out.append("\treturn c + t[a & 15];\n}\n")
    return "\n".join(out).encode()


def _sql(rows):
    return f"""
create table t (id integer primary key, k integer, name text);
with recursive n(i) as (select 1 union all select i + 1 from n where i < {rows})
insert into t select i, (i * 7919) % 10007, printf('name %d', (i * 31) % 5003) from n;
create index by_name on t (name);
update t set k = k + 1 where id % 3 = 0;
select count(*), sum(k), min(name), max(name) from t;
select name, count(*), sum(k) from t group by name order by sum(k) desc, name limit 20;
select count(*) from t a join t b on a.name = b.name where a.id < {rows // 20} and a.k < b.k;
""".encode()


def _video(frames):
    """Planar 4:2:0, 640 by 360: a window that moves over a texture, with noise."""
    r = random.Random(3)
    side = 1024
    wave = [[math.sin(i / p) for i in range(side)] for p in (9.0, 23.0, 61.0, 150.0)]
    texture = [
        bytes(int(128 + 30 * (wave[0][x] * wave[1][y] + wave[2][(x + y) % side]) + 20 * wave[3][y] + r.random() * 8) for x in range(side)) for y in range(side)
    ]
    out = bytearray()
    for f in range(frames):
        for width, height, dx, dy in ((640, 360, 5, 3), (320, 180, 2, 1), (320, 180, 1, 2)):
            for y in range(height):
                left = f * dx % (side - width)
                out += texture[(y + f * dy) % side][left : left + width]
    return bytes(out)


def make(directory, percent):
    """The path of the tar file; the inputs are made once for each percentage and each version of this file."""
    inputs = os.path.join(directory, f"inputs-{percent}")
    if not os.path.isdir(inputs) or os.path.getmtime(inputs) < os.path.getmtime(__file__):
        partial = inputs + ".partial"
        for leftover in (inputs, partial):
            shutil.rmtree(leftover, ignore_errors=True)
        os.makedirs(partial)
        contents = {
            "text": _text(max(1, 16 * percent // 100)),
            "large.c": _c_source(max(10, 60 * percent // 100)),
            "queries.sql": _sql(max(1000, 200000 * percent // 100)),
            "video.yuv": _video(max(2, 40 * percent // 100)),
        }
        for name, data in contents.items():
            with open(os.path.join(partial, name), "wb") as f:
                f.write(data)
        os.rename(partial, inputs)
    path = inputs + ".tar"
    with tarfile.open(path, "w") as tar:
        for name in sorted(os.listdir(inputs)):
            tar.add(os.path.join(inputs, name), name)
        tar.add(os.path.join(HERE, "rootdisk.sh"), "rootdisk.sh")
    # A disk is whole sectors.
    with open(path, "ab") as f:
        f.write(bytes(-f.tell() % 4096))
    return path
