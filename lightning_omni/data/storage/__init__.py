"""Data at URLs: byte ranges with retries, kept in a bounded local cache."""
