//! Losses against an independent implementation (`tests/fixtures/trm`) and against finite
//! differences.

use super::*;
use crate::trm::testing::Golden;
use candle_core::Var;
use tagstream_kernels::testing::{check_gradients, distance, noise};

const ASL: Asymmetric = Asymmetric {
    positive_focus: 1.0,
    negative_focus: 2.0,
    margin: 0.05,
};

/// The gradient of a scalar.
fn gradient(x: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor>) -> (f64, Tensor) {
    let x = Var::from_tensor(x).unwrap();
    let y = f(x.as_tensor()).unwrap();
    let grads = y.backward().unwrap();
    let value = y.to_dtype(DType::F64).unwrap().to_scalar().unwrap();
    (value, grads.get(&x).expect("a gradient").clone())
}

#[test]
fn the_asymmetric_loss_agrees_with_the_golden() {
    let losses = [
        ("default", ASL),
        (
            "asl4",
            Asymmetric {
                negative_focus: 4.0,
                ..ASL
            },
        ),
        ("bce", Asymmetric::default()),
    ];
    for (dtype, tolerance) in [(DType::F64, 1e-6), (DType::F32, 1e-4)] {
        let golden = Golden::open("asl", dtype);
        let (s, y) = (golden.get("s"), golden.get("y"));
        for (name, loss) in losses {
            let elements = loss.elements(&s, &y).unwrap();
            assert!(
                distance(&elements, &golden.get(&format!("{name}_elem"))) < tolerance,
                "{name}"
            );
            let (sum, slope) = gradient(&s, |s| loss.elements(s, &y)?.sum_all());
            let expected = golden.get(&format!("{name}_grad_of_sum"));
            assert!(distance(&slope, &expected) < tolerance, "{name}");
            let known = 3.0 * golden.scalar("known_fraction");
            assert!(
                (sum / known - golden.scalar(&format!("{name}_red_known"))).abs()
                    < tolerance * 10.0
            );
            assert!(
                (sum / 3.0 - golden.scalar(&format!("{name}_red_batch"))).abs() < tolerance * 10.0
            );
        }
    }
}

#[test]
fn cross_entropies_agree_with_differences() {
    let labels = Tensor::new(
        &[[1.0, -1.0, 0.0], [-1.0, 1.0, 1.0f64]],
        &candle_core::Device::Cpu,
    )
    .unwrap();
    // Without focusing nothing is held constant, so differences see the whole gradient.
    check_gradients(
        &|x| Asymmetric::default().elements(&x[0], &labels),
        &[noise(1, &[2, 3])],
    );
    let margin = Asymmetric {
        margin: 0.05,
        ..Asymmetric::default()
    };
    check_gradients(&|x| margin.elements(&x[0], &labels), &[noise(1, &[2, 3])]);
    let (targets, weights) = (noise(2, &[2, 3]), noise(3, &[2, 3]));
    check_gradients(
        &|x| soft_cross_entropy(&x[0], &targets, &weights),
        &[noise(1, &[2, 3])],
    );
}

#[test]
fn the_label_slot_of_an_unknown_entry_does_not_matter() {
    let s = noise(1, &[2, 2]);
    let labels =
        |y: f64| Tensor::new(&[[1.0, 0.0], [y * 0.0, -1.0]], &candle_core::Device::Cpu).unwrap();
    let (a, b) = (
        ASL.elements(&s, &labels(1.0)).unwrap(),
        ASL.elements(&s, &labels(-1.0)).unwrap(),
    );
    assert_eq!(distance(&a, &b), 0.0);
    assert_eq!(a.to_vec2::<f64>().unwrap()[0][1], 0.0);
}

#[test]
fn a_hard_target_is_the_cross_entropy() {
    let s = noise(1, &[2, 2]);
    let y = Tensor::new(&[[1.0, -1.0], [1.0, -1.0f64]], &candle_core::Device::Cpu).unwrap();
    let t = ((&y + 1.0).unwrap() / 2.0).unwrap();
    let soft = soft_cross_entropy(&s, &t, &s.ones_like().unwrap()).unwrap();
    assert!(distance(&soft, &Asymmetric::default().elements(&s, &y).unwrap()) < 1e-12);
}

#[test]
fn distillation_agrees_with_the_golden() {
    for (dtype, tolerance) in [(DType::F64, 1e-6), (DType::F32, 1e-4)] {
        let golden = Golden::open("kd", dtype);
        let (teacher, student, t) = (
            golden.get("teacher"),
            golden.get("student"),
            golden.scalar("T"),
        );
        let (value, slope) = gradient(&student, |s| class_distillation(&teacher, s, t));
        assert!((value - golden.scalar("class_value")).abs() < tolerance);
        assert!(distance(&slope, &golden.get("class_grad_student")) < tolerance);
        let (value, slope) = gradient(&student, |s| bernoulli_distillation(&teacher, s, t));
        assert!((value - golden.scalar("bernoulli_value")).abs() < tolerance);
        assert!(distance(&slope, &golden.get("bernoulli_grad_student")) < tolerance);
        let value = feature_distillation(
            &golden.get("F_norm"),
            &golden.get("R_norm"),
            &golden.get("y"),
        )
        .unwrap();
        let value = value
            .to_dtype(DType::F64)
            .unwrap()
            .to_scalar::<f64>()
            .unwrap();
        assert!((value - golden.scalar("feature_value")).abs() < tolerance);
    }
}

#[test]
fn distillation_agrees_with_differences_and_leaves_the_teacher_alone() {
    let teacher = noise(1, &[2, 3]);
    check_gradients(
        &|x| class_distillation(&teacher, &x[0], 4.0),
        &[noise(2, &[2, 3])],
    );
    check_gradients(
        &|x| bernoulli_distillation(&teacher, &x[0], 4.0),
        &[noise(2, &[2, 3])],
    );
    let region = noise(4, &[2, 3, 4]);
    let labels = Tensor::new(
        &[[1.0, -1.0, 0.0], [-1.0, 1.0, 1.0f64]],
        &candle_core::Device::Cpu,
    )
    .unwrap();
    check_gradients(
        &|x| feature_distillation(&x[0], &region, &labels),
        &[noise(3, &[2, 3, 4])],
    );
    let teacher = Var::from_tensor(&teacher).unwrap();
    let student = Var::from_tensor(&noise(2, &[2, 3])).unwrap();
    for loss in [class_distillation, bernoulli_distillation] {
        let grads = loss(&teacher, &student, 4.0).unwrap().backward().unwrap();
        assert!(grads.get(&teacher).is_none() && grads.get(&student).is_some());
    }
}

#[test]
fn the_contrastive_loss_agrees_with_the_golden() {
    for (dtype, tolerance) in [(DType::F64, 1e-6), (DType::F32, 1e-4)] {
        let golden = Golden::open("contrastive", dtype);
        let (z, y, visual, text) = (
            golden.get("z"),
            golden.get("y"),
            golden.get("Pv"),
            golden.get("Pt"),
        );
        let tau = golden.scalar("tau");
        let (value, slope) = gradient(&z, |z| contrastive(z, &visual, &text, &y, tau));
        assert!((value - golden.scalar("value")).abs() < tolerance);
        assert!(distance(&slope, &golden.get("grad_z")) < tolerance);
        let (_, slope) = gradient(&text, |text| contrastive(&z, &visual, text, &y, tau));
        assert!(distance(&slope, &golden.get("grad_Pt")) < tolerance);
        if dtype == DType::F64 {
            check_gradients(&|x| contrastive(&x[0], &visual, &x[1], &y, 0.5), &[z, text]);
        }
    }
}

#[test]
fn without_positives_the_losses_are_zero_and_move_nothing() {
    let (visual, text) = (noise(2, &[3, 4]), noise(3, &[3, 4]));
    let labels = Tensor::zeros((2, 3), DType::F64, &candle_core::Device::Cpu).unwrap();
    let z = Var::from_tensor(&noise(1, &[2, 3, 4])).unwrap();
    for loss in [
        contrastive(&z, &visual, &text, &labels, 0.07).unwrap(),
        feature_distillation(&z, &noise(5, &[2, 3, 4]), &labels).unwrap(),
    ] {
        assert_eq!(loss.to_scalar::<f64>().unwrap(), 0.0);
        assert!(loss.backward().unwrap().get(&z).is_none());
    }
}
