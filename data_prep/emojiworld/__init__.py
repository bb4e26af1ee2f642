"""EmojiWorld: scenes, captions and questions, drawn from emoji."""
