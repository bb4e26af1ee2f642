"""EmojiWorld, the bundled data set: the grammar of its captions and a classifier of its scenes."""
