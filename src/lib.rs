//! Quantizes the weights of Core ML neural-network models.
