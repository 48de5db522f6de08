"""Surrogates: networks that replace a simulator or a pricing routine, learned from values and derivatives."""
