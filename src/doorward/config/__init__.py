"""The operator's files, read into settings that need no further checking.

    text ── source.read_yaml ──► nodes ── document ──► checked document ── load ──► Settings

    document   the file format, version 1: every key, its type, its default, its meaning
    load       a file becomes settings, or every problem at once with file, line and column
    settings   what the planes get: frozen, parsed values, replaced whole
    reload     a changed file becomes the next settings, or a reported rejection
    endpoints  where the planes of one deployment meet each other

What does not belong here: anything that acts. Config sits low: it may know nouns and policies, no plane.
"""
