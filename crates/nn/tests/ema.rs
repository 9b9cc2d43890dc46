//! A teacher that follows its student.

use bifocal_nn::ema::{self, EmaError};
use bifocal_nn::engine::values;
use bifocal_nn::init::Rng;
use bifocal_nn::layers::Linear;
use bifocal_nn::{Module, params};

#[derive(Module, Debug)]
struct Student {
    vision: Linear,
    head: Linear,
}

fn student() -> Student {
    let mut rng = Rng::new(2);
    let student = Student {
        vision: Linear::new(70, 500, true, &mut rng),
        head: Linear::new(3, 3, true, &mut rng),
    };
    params::set_trainable(student, |_| true)
}

fn teacher() -> Linear {
    Linear::new(70, 500, true, &mut Rng::new(1))
}

fn all<M: Module>(module: &M) -> Vec<f32> {
    let mut all = Vec::new();
    params::visit(module, |_, read| all.extend(read()));
    all
}

fn vision(name: &str) -> Option<String> {
    Some(format!("vision.{name}"))
}

#[test]
fn after_n_steps_it_is_the_weighted_mean() {
    let (student, mut teacher) = (student(), teacher());
    let start = all(&teacher);
    let (alpha, n) = (0.97, 40);
    for _ in 0..n {
        teacher = ema::update(teacher, &student, alpha, vision).expect("names fit");
    }
    let rest = alpha.powi(n);
    for ((found, e), s) in all(&teacher).iter().zip(&start).zip(all(&student.vision)) {
        let expected = rest * f64::from(*e) + (1.0 - rest) * f64::from(s);
        assert!(
            (f64::from(*found) - expected).abs() < 1e-6,
            "{found} against {expected}"
        );
    }
}

#[test]
fn it_is_written_only_where_asked() {
    let (student, teacher) = (student(), teacher());
    let copy = all(&teacher);
    let kept = teacher.clone();
    let teacher =
        ema::update(teacher, &student, 0.5, |name| vision(name).filter(|_| name == "bias")).expect("names fit");
    assert_eq!(all(&teacher)[..35_000], copy[..35_000]);
    assert_ne!(all(&teacher)[35_000..], copy[35_000..]);
    // what another handle holds is not touched
    assert_eq!(all(&kept), copy);
    assert!(params::list(&teacher).iter().all(|p| !p.trainable));
}

#[test]
fn an_equal_teacher_stays_to_the_bit() {
    let student = student();
    let teacher = ema::update(student.vision.clone(), &student, 0.999, vision).expect("names fit");
    assert_eq!(values(teacher.weight.val()), values(student.vision.weight.val()));
    assert!(params::list(&teacher).iter().all(|p| p.trainable));
}

#[test]
fn names_and_shapes_that_do_not_fit_are_refused() {
    let missing = ema::update(teacher(), &student(), 0.5, |name| Some(name.to_owned()));
    assert!(matches!(missing, Err(EmaError::Missing { ref teacher, .. }) if teacher == "weight"));
    let shape = ema::update(teacher(), &student(), 0.5, |name| Some(format!("head.{name}")));
    let message = shape.expect_err("3×3 is not 500×70").to_string();
    assert!(
        message.contains("[500, 70]") && message.contains("head.weight"),
        "{message}"
    );
}
