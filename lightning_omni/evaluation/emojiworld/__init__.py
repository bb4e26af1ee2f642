"""What only EmojiWorld, the embedded data, needs: its captions and a classifier of its scenes."""
