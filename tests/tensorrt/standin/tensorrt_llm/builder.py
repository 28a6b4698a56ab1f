"""The builder's config."""

from ._classes import CLASSES, ENUMERATIONS

BuildConfig, KVCacheType = CLASSES["BuildConfig"], ENUMERATIONS["KVCacheType"]
