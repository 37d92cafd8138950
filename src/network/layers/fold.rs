//! What folding needs to know of layers, besides their weights.

use crate::format::proto::neural_network_layer::Layer;
use crate::format::proto::{NeuralNetworkLayer, WeightParams};

/// Sets what a layer adds to its output: the bias of a convolution, a product or a `scale` layer (with its shape), the
/// beta of a batchnorm.
pub(crate) fn set_bias(layer: &mut NeuralNetworkLayer, shape: &[u64], bias: WeightParams) {
    let (has_bias, place) = match &mut layer.layer {
        Some(Layer::Convolution(params)) => (&mut params.has_bias, &mut params.bias),
        Some(Layer::Convolution3d(params)) => (&mut params.has_bias, &mut params.bias),
        Some(Layer::InnerProduct(params)) => (&mut params.has_bias, &mut params.bias),
        Some(Layer::BatchedMatmul(params)) => (&mut params.has_bias, &mut params.bias),
        Some(Layer::Scale(params)) => {
            params.shape_bias = shape.to_vec();
            (&mut params.has_bias, &mut params.bias)
        }
        Some(Layer::Batchnorm(params)) => {
            params.beta = Some(bias);
            return;
        }
        _ => return,
    };
    *has_bias = true;
    *place = Some(bias);
}

/// Whether a layer comes from the time when every array had five dimensions, `[sequence, batch, channel, height,
/// width]`, and so makes such arrays of such arrays.
pub(crate) fn keeps_rank_5(layer: &NeuralNetworkLayer) -> bool {
    use Layer::{
        Activation, Add, Average, Batchnorm, BiDirectionalLstm, Bias, Concat, Convolution, Crop, CropResize, Dot,
        Embedding, Flatten, Gru, InnerProduct, L2normalize, LoadConstant, Lrn, Max, Min, Multiply, Mvn, Padding,
        Permute, Pooling, Reduce, ReorganizeData, Reshape, ResizeBilinear, Scale, SequenceRepeat, SimpleRecurrent,
        Slice, Softmax, Split, Unary, UniDirectionalLstm, Upsample,
    };
    #[rustfmt::skip]
    let keeps = matches!(
        layer.layer,
        Some(
            Convolution(_) | Pooling(_) | Activation(_) | InnerProduct(_) | Embedding(_) | Batchnorm(_) | Mvn(_)
            | L2normalize(_) | Softmax(_) | Lrn(_) | Crop(_) | Padding(_) | Upsample(_) | ResizeBilinear(_)
            | CropResize(_) | Unary(_) | Add(_) | Multiply(_) | Average(_) | Scale(_) | Bias(_) | Max(_) | Min(_)
            | Dot(_) | Reduce(_) | LoadConstant(_) | Reshape(_) | Flatten(_) | Permute(_) | Concat(_) | Split(_)
            | SequenceRepeat(_) | ReorganizeData(_) | Slice(_) | SimpleRecurrent(_) | Gru(_)
            | UniDirectionalLstm(_) | BiDirectionalLstm(_)
        )
    );
    keeps
}
