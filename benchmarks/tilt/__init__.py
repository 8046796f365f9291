"""The exact answer for pictures: the tilt of a pretrained model by a reward, and methods beside it at equal reward."""
