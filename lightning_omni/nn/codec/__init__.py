"""Parts of the image and speech codecs: encoders, decoders, quantizers, discriminators."""
