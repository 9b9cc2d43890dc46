//! What a model that learns task after task has learnt and lost.
//!
//! `R[t][k]` is how well test `k` is done after `t` tasks; row 0 is the model before the first. Average, backward and forward transfer are those
//! of Lopez-Paz & Ranzato 2017 (arXiv 1706.08840, eq. 2–4), except that forward transfer is counted from the model that the chain starts with,
//! not from a random one; forgetting is that of Chaudhry et al. 2018 (arXiv 1801.10112, eq. 3).

use serde::{Deserialize, Serialize};

use crate::error::EvalError;

/// A matrix in a few numbers. A number is missing where nothing can be said: after a single task nothing was forgotten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Continual {
    /// Mean of the last row.
    pub average: f64,
    /// Mean of the tests right after their task.
    pub learning: Option<f64>,
    /// How far below its best since it was learnt a test ends, on average over all but the last task; less is better.
    pub forgetting: Option<f64>,
    /// How much better a test ends than right after its task, over all but the last task.
    pub backward: Option<f64>,
    /// How much better a test is done right before its task than at the start, over all but the first task.
    pub forward: Option<f64>,
}

/// Sums up a matrix.
///
/// # Shapes
/// `rows` `[tasks + 1, tests]`; `learnt` `[tests]`: the number (from 1) of the task that teaches a test, `None` for a test of no task.
///
/// # Errors
/// A matrix without tests or tasks, rows of different lengths, tasks that there are not, values that are not finite.
pub fn continual(rows: &[Vec<f64>], learnt: &[Option<usize>]) -> Result<Continual, EvalError> {
    let (Some(last), tests) = (rows.last().filter(|_| rows.len() > 1), learnt.len()) else {
        return Err(EvalError::Empty {
            what: "the list of tasks",
        });
    };
    if tests == 0 {
        return Err(EvalError::Empty {
            what: "the list of tests",
        });
    }
    for row in rows {
        check_matrix("the matrix of tasks and tests", row, tests)?;
    }
    let tasks = rows.len() - 1;
    if let Some((test, &task)) = learnt
        .iter()
        .enumerate()
        .filter_map(|(k, task)| Some((k, task.as_ref()?)))
        .find(|(_, task)| !(1..=tasks).contains(*task))
    {
        return Err(EvalError::Index {
            what: "test",
            row: test,
            index: task,
            count: tasks,
        });
    }
    let taught = || learnt.iter().enumerate().filter_map(|(k, task)| Some((k, (*task)?)));
    let best = |k: usize, from: usize| rows[from..tasks].iter().map(|row| row[k]).fold(f64::MIN, f64::max);
    let before_last = || taught().filter(|&(_, task)| task < tasks);
    Ok(Continual {
        average: last.iter().sum::<f64>() / tests as f64,
        learning: mean(taught().map(|(k, task)| rows[task][k])),
        forgetting: mean(before_last().map(|(k, task)| best(k, task) - last[k])),
        backward: mean(before_last().map(|(k, task)| last[k] - rows[task][k])),
        forward: mean(
            taught()
                .filter(|&(_, task)| task > 1)
                .map(|(k, task)| rows[task - 1][k] - rows[0][k]),
        ),
    })
}

fn check_matrix(what: &'static str, row: &[f64], tests: usize) -> Result<(), EvalError> {
    if row.len() != tests {
        return Err(EvalError::Shape {
            what,
            len: row.len(),
            expected: tests,
            shape: format!("a value for each of {tests} tests"),
        });
    }
    match row.iter().find(|value| !value.is_finite()) {
        None => Ok(()),
        Some(&value) => Err(EvalError::Parameter {
            what,
            value,
            expected: "all values are finite",
        }),
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0);
    for value in values {
        sum += value;
        count += 1;
    }
    (count > 0).then(|| sum / f64::from(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: Option<f64>, b: f64) {
        assert!(a.is_some_and(|a| (a - b).abs() < 1e-12), "{a:?} is not {b}");
    }

    #[test]
    fn three_tasks_by_hand() {
        let rows = [
            vec![0.2, 0.1, 0.0],
            vec![0.6, 0.2, 0.0],
            vec![0.7, 0.5, 0.1],
            vec![0.4, 0.3, 0.8],
        ];
        let all = continual(&rows, &[Some(1), Some(2), Some(3)]).unwrap();
        close(Some(all.average), 0.5);
        close(all.learning, (0.6 + 0.5 + 0.8) / 3.0);
        // the first test was best after the second task
        close(all.forgetting, ((0.7 - 0.4) + (0.5 - 0.3)) / 2.0);
        close(all.backward, ((0.4 - 0.6) + (0.3 - 0.5)) / 2.0);
        close(all.forward, ((0.2 - 0.1) + (0.1 - 0.0)) / 2.0);
    }

    #[test]
    fn one_task_forgets_nothing_and_joint_training_teaches_no_test_of_its_own() {
        let one = continual(&[vec![0.1], vec![0.3]], &[Some(1)]).unwrap();
        assert_eq!((one.forgetting, one.backward, one.forward), (None, None, None));
        close(one.learning, 0.3);
        let joint = continual(&[vec![0.1, 0.2], vec![0.5, 0.7]], &[None, None]).unwrap();
        assert_eq!((joint.learning, joint.forgetting), (None, None));
        close(Some(joint.average), 0.6);
    }

    #[test]
    fn a_test_that_keeps_getting_better_counts_against_forgetting() {
        let rows = [vec![0.0, 0.0], vec![0.5, 0.0], vec![0.6, 0.4]];
        let all = continual(&rows, &[Some(1), Some(2)]).unwrap();
        close(all.forgetting, -0.1);
        close(all.backward, 0.1);
    }

    #[test]
    fn what_is_no_matrix_is_refused() {
        assert!(continual(&[], &[Some(1)]).is_err());
        assert!(continual(&[vec![0.1]], &[Some(1)]).is_err());
        assert!(continual(&[vec![], vec![]], &[]).is_err());
        assert!(continual(&[vec![0.1], vec![0.1, 0.2]], &[Some(1)]).is_err());
        assert!(continual(&[vec![0.1], vec![f64::NAN]], &[Some(1)]).is_err());
        for task in [0, 2] {
            assert!(continual(&[vec![0.1], vec![0.2]], &[Some(task)]).is_err());
        }
    }
}
