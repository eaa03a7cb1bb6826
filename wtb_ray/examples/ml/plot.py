"""One SVG picture of a training: the loss by epoch, and which digits are taken for which."""

import math
from collections.abc import Sequence

WIDTH, HEIGHT = 640, 340
PANEL = 260
"""Side of each of the two panels."""
TOP, LEFT, RIGHT = 40, 40, 350
INK = "#1f4e79"


def svg(losses: Sequence[float], confused: Sequence[Sequence[int]]) -> str:
    """The picture as an XML document; a model without epochs has an empty curve."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}"'
        f' viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        *_curve(losses),
        *_matrix(confused),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _curve(losses: Sequence[float]) -> list[str]:
    parts = [
        _text(LEFT, TOP - 14, f"training loss, {len(losses)} epochs"),
        f'<rect x="{LEFT}" y="{TOP}" width="{PANEL}" height="{PANEL}" fill="none" stroke="#999"/>',
    ]
    known = [loss for loss in losses if math.isfinite(loss)]
    if not known:
        return parts
    most = max(known) or 1.0
    across = PANEL / max(len(known) - 1, 1)
    points = " ".join(
        f"{LEFT + i * across:.1f},{TOP + PANEL * (1 - loss / most):.1f}"
        for i, loss in enumerate(known)
    )
    return [
        *parts,
        f'<polyline points="{points}" fill="none" stroke="{INK}" stroke-width="2"/>',
        _text(4, TOP + 8, f"{most:.2g}"),
        _text(LEFT + PANEL - 70, TOP + PANEL + 16, f"last {known[-1]:.3g}"),
    ]


def _matrix(confused: Sequence[Sequence[int]]) -> list[str]:
    side = PANEL / len(confused)
    parts = [_text(RIGHT, TOP - 14, "digit (down) taken for (across), test part")]
    for row, counts in enumerate(confused):
        most = sum(counts) or 1
        y = TOP + row * side
        parts.append(_text(RIGHT - 14, y + side * 0.65, str(row)))
        parts.append(_text(RIGHT + row * side + side * 0.35, TOP + PANEL + 16, str(row)))
        for column, count in enumerate(counts):
            x = RIGHT + column * side
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{side:.1f}" height="{side:.1f}"'
                f' fill="{INK}" fill-opacity="{count / most:.2f}" stroke="#ddd"/>'
            )
            if count:
                fill = "white" if 2 * count > most else "black"
                parts.append(_text(x + 5, y + side * 0.65, str(count), fill))
    return parts


def _text(x: float, y: float, words: str, fill: str = "black") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}">{words}</text>'
