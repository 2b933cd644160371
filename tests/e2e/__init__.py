"""Tests with real guests, on a libvirtd of their own."""
