"""Detection of pulmonary hypertension from ECG, chest X-ray and BNP.

Kishikawa et al., Eur Heart J Digit Health 2025;6:209, doi 10.1093/ehjdh/ztae097: a CNN, a ResNet18,
a logistic regression, and their fusion by three fully connected layers.
"""

from lightning_modules.classifier import Classifier, LinearModel
from lightning_modules.fusion import Fusion

PHECGClassifier = Classifier
PHCXRClassifier = Classifier
PHBNPClassifier = LinearModel
PHFusion = Fusion
