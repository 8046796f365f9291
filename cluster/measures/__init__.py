"""What is measured of pictures that have been scored: plain functions of arrays, without Ray."""
