"""Work that several processes divide by claims in a folder, whatever starts them."""
