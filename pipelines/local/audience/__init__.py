"""The audience: plays the viewers of the stream, because no release can be tried without them.

``viewers`` is what they do, seeded and pure; ``loop.run`` plays them against a real address;
``history`` writes the archive log that the first version is trained on.
"""
