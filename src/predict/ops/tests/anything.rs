//! Any parameters and any inputs: a result of bounded size, or an error; the same each time.

#[path = "../../../../tests/bodies/bytes.rs"]
#[allow(dead_code, reason = "other bodies use the rest")]
mod bytes;
#[path = "../../../../tests/bodies/weightless.rs"]
mod weightless;

use std::collections::BTreeMap;

use ndarray::IxDyn;
use prost::Message;
use rand::RngExt;

use super::*;

const MAX_VALUES: usize = 5000;

/// Runs what `data` says; whether there was a result.
fn runs(data: &[u8]) -> bool {
    let (layer, output_count, arrays) = weightless::case(&mut bytes::Bytes(data));
    // The body is written against the published crate, so its message comes as bytes.
    let message = coreml_quant::proto::NeuralNetworkLayer { layer: Some(layer), ..Default::default() };
    let message = crate::format::proto::NeuralNetworkLayer::decode(message.encode_to_vec().as_slice()).unwrap();
    let layer = message.layer.unwrap();
    let inputs: Vec<Tensor> =
        arrays.into_iter().map(|(shape, values)| Tensor::from_shape_vec(IxDyn(&shape), values).unwrap()).collect();
    let run = |inputs: &[Tensor]| {
        let mut cx =
            Context { output_count, max_values: MAX_VALUES, random: Pcg64::seed_from_u64(3), notes: Vec::new() };
        eval(&layer, inputs, &mut cx).unwrap()
    };
    let bits = |x: &Tensor| (x.shape().to_vec(), x.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
    let result = run(&inputs);
    // The same from inputs that are not row-major: transposed in memory, equal in value.
    let odd: Vec<Tensor> =
        inputs.iter().map(|x| x.t().as_standard_layout().into_owned().into_shared().reversed_axes()).collect();
    match (&result, run(&odd)) {
        (Ok(a), Ok(b)) => assert_eq!(a.iter().map(bits).collect::<Vec<_>>(), b.iter().map(bits).collect::<Vec<_>>()),
        (Err(a), Err(b)) => assert_eq!(a.to_string(), b.to_string()),
        (a, b) => panic!("{a:?} or {b:?}"),
    }
    for y in result.iter().flatten() {
        assert!(y.is_standard_layout() && y.len() <= MAX_VALUES && (1..=5).contains(&y.ndim()), "{:?}", y.shape());
    }
    result.is_ok()
}

#[test]
fn any_parameters_and_inputs_give_a_result_or_an_error() {
    let mut random = Pcg64::seed_from_u64(7);
    let mut results = BTreeMap::<u8, usize>::new();
    for kind in 0..weightless::KINDS {
        for _ in 0..4000 {
            let mut data: Vec<u8> = (0..random.random_range(1..400)).map(|_| random.random()).collect();
            data[0] = kind;
            *results.entry(kind).or_default() += usize::from(runs(&data));
        }
    }
    // A reshape to other numbers, parts that add up: these chance hardly meets, the cases do.
    let rare: Vec<_> = results.iter().filter(|(_, count)| **count < 3).collect();
    assert!(rare.len() <= 5, "kinds that seldom give a result: {rare:?}");
}

proptest::proptest! {
    #[test]
    fn anything_gives_a_result_or_an_error(data in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..500)) {
        runs(&data);
    }
}
