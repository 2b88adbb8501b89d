"""Clusters of the images of an embedded collection, and the words that are typical of each."""

from clipkit.curation.clusters.image_clusters import (
    ImageClusters,
    cluster_images,
    default_num_clusters,
)
from clipkit.curation.clusters.kmeans import nearest_centres, spherical_kmeans
from clipkit.curation.clusters.typical_words import WordCounts, log_odds

__all__ = [
    "ImageClusters",
    "WordCounts",
    "cluster_images",
    "default_num_clusters",
    "log_odds",
    "nearest_centres",
    "spherical_kmeans",
]
