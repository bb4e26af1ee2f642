"""EmojiWorld: scenes of emoji with captions and questions."""
