//! A head with one category more, known by its words alone, or with other words for one.

use super::{Attention, ExportedHead, HeadError, ReadOut};

/// Cosine over temperature of the informed start: 1 / 0.05.
const SPATIAL_SCALE: f32 = 20.0;

impl ExportedHead {
    /// This head with one more category at the end; all others give the numbers they gave before.
    ///
    /// `text` is the text feature of the category's prompt, `[D]`, of norm 1. The category attends
    /// to where the image is like its text (softmax of cosine / 0.05), its query is the text
    /// feature, and every read-out is the text's direction with the mean length and the mean bias
    /// of the other categories' read-outs: what a retraining would start from. The memories know no
    /// image of it and say nothing. In a zero-shot head that is exactly the row that the head would
    /// have been made with.
    ///
    /// # Errors
    /// [`HeadError::Sizes`] if `text` has another length than D, or if the head has several
    /// attention heads: their maps cannot attend by text alone.
    pub fn with_category(&self, text: &[f32]) -> Result<ExportedHead, HeadError> {
        let (c, d) = (self.categories, self.dim);
        if text.len() != d {
            return Err(HeadError::Sizes(format!(
                "a text feature of {} numbers, a head of {d}",
                text.len()
            )));
        }
        let Attention::Folded(attention) = &self.attention else {
            return Err(HeadError::Sizes(format!(
                "the head has {} attention heads, through which a category cannot attend by its \
                 text alone: label images \
                 with it and retrain instead",
                self.heads
            )));
        };
        let directed = |scale: f32| text.iter().map(|x| x * scale).collect::<Vec<f32>>();
        let mut head = self.clone();
        head.categories = c + 1;
        head.attention = Attention::Folded(joined(attention, &directed(SPATIAL_SCALE)));
        head.region = with_row(&self.region, text);
        if let Some(query) = &mut head.query {
            query.query = joined(&query.query, text);
            query.read_out = with_row(&query.read_out, text);
        }
        if let Some(global) = &mut head.global {
            global.read_out = with_row(&global.read_out, text);
            if let Some(residual) = &mut global.residual {
                residual.extend(vec![0.0; d]);
            }
        }
        if let Some(memory) = &mut head.memory {
            let rows = memory.weight.chunks_exact(c);
            memory.weight = rows.flat_map(|row| joined(row, &[0.0])).collect();
            memory.bias = joined(&memory.bias, &[mean(&memory.bias)]);
        }
        if let Some(regional) = &mut head.regional {
            let regions = regional.weight.len() / c.max(1);
            regional.attention.extend(directed(SPATIAL_SCALE));
            // Columns of norm 1, as the others are; with weights of 0 any would do.
            let columns = text.iter().flat_map(|x| std::iter::repeat_n(*x, regions));
            regional.bank.extend(columns);
            regional.weight.extend(vec![0.0; regions]);
            regional.bias = joined(&regional.bias, &[mean(&regional.bias)]);
        }
        head.check()?;
        Ok(head)
    }
}

/// Other words for a category.
#[derive(Debug, Clone, Copy)]
pub struct NewDirection<'a> {
    /// Which category.
    pub category: usize,
    /// The text feature of the words so far, `[D]`, of norm 1.
    pub from: &'a [f32],
    /// The text feature of the new words.
    pub to: &'a [f32],
}

impl ExportedHead {
    /// This head with other words for a category; all others give the numbers they gave before.
    ///
    /// Whatever points in the direction of the category's text (attention, query, read-outs) is
    /// moved by the difference of the two text features times its own length: what was learnt
    /// beyond the old words stays, and a zero-shot head becomes exactly the one that the new words
    /// would have made. The memories hold what labels said and stay as they are.
    ///
    /// # Errors
    /// [`HeadError::Sizes`] if a feature has another length than D, there is no such category, or
    /// the head has several attention heads.
    pub fn turn(&mut self, new: NewDirection<'_>) -> Result<(), HeadError> {
        let (c, d) = (self.categories, self.dim);
        if new.category >= c || new.from.len() != d || new.to.len() != d {
            return Err(HeadError::Sizes(format!(
                "text features of {} and {} numbers for category {}, a head of {c} and {d}",
                new.from.len(),
                new.to.len(),
                new.category
            )));
        }
        let Attention::Folded(attention) = &mut self.attention else {
            return Err(HeadError::Sizes(format!(
                "the head has {} attention heads, through which new words cannot attend: retrain \
                 instead",
                self.heads
            )));
        };
        let own = new.category * d..(new.category + 1) * d;
        new.shift(&mut attention[own.clone()]);
        new.shift(&mut self.region.weight[own.clone()]);
        if let Some(query) = &mut self.query {
            new.shift(&mut query.query[own.clone()]);
            new.shift(&mut query.read_out.weight[own.clone()]);
        }
        if let Some(global) = &mut self.global {
            new.shift(&mut global.read_out.weight[own]);
        }
        self.check()
    }
}

impl NewDirection<'_> {
    /// Moves a row by the difference, as long as the row is.
    fn shift(&self, row: &mut [f32]) {
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        for ((x, from), to) in row.iter_mut().zip(self.from).zip(self.to) {
            *x += length * (to - from);
        }
    }
}

fn joined(values: &[f32], more: &[f32]) -> Vec<f32> {
    [values, more].concat()
}

fn mean(values: &[f32]) -> f32 {
    let sum: f64 = values.iter().map(|x| f64::from(*x)).sum();
    (sum / values.len().max(1) as f64) as f32
}

/// A read-out with a row more: the text's direction, mean length and mean bias of the others.
fn with_row(read_out: &ReadOut, text: &[f32]) -> ReadOut {
    let lengths: Vec<f32> = read_out
        .weight
        .chunks_exact(text.len())
        .map(|row| row.iter().map(|x| x * x).sum::<f32>().sqrt())
        .collect();
    let length = mean(&lengths);
    let row: Vec<f32> = text.iter().map(|x| x * length).collect();
    ReadOut {
        weight: joined(&read_out.weight, &row),
        bias: joined(&read_out.bias, &[mean(&read_out.bias)]),
    }
}
